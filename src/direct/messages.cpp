// SPDX-License-Identifier: Apache-2.0
// Messages in both directions: through the ring, or placed by the sender into the receive that
// they take.
#include "direct/message.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "direct/copy.hpp"
#include "direct/stream.hpp"

namespace ndv::direct {
namespace {

// What a message of which nothing is copied takes of a step's budget.
constexpr std::size_t kLeast = 64;

}  // namespace

// ---- out ------------------------------------------------------------------------------------

Stream::Turn Stream::send(std::size_t& budget) {
    if (offset_ == 0) is_placing_ = can_place();
    return is_placing_ ? place_message(budget) : send_by_ring(budget);
}

bool Stream::can_place() const {
    const std::uint32_t length = send_queue_[request_next_].length;
    const Posted& receive = theirs_.posted[messages_sent_ % kPosted];
    return length > kSmallMessage &&
           receive.stamp.load(std::memory_order_acquire) == messages_sent_ + 1 &&
           receive.length.load(std::memory_order_relaxed) >= length;
}

Stream::Turn Stream::place_message(std::size_t& budget) {
    const iwarp::SendRequest& request = send_queue_[request_next_];
    const Posted& receive = theirs_.posted[messages_sent_ % kPosted];
    if (!touch(Reach::kReceives)) return gone();
    // Behind the hazard: from here on it stays, or was taken back before.
    if (receive.stamp.load(std::memory_order_seq_cst) != messages_sent_ + 1) return gone();
    const auto size =
        static_cast<std::uint32_t>(std::min<std::size_t>(request.length - offset_, budget));
    Grip grip;
    std::uint32_t moved = 0;
    if (reach_.take_receive(receive.where.load(std::memory_order_relaxed), request.length, grip)) {
        moved = copy(grip, offset_, iwarp::RemoteRight::write, size);
        reach_.let_go(grip);
    }
    if (moved < size) {
        // Not within reach, or not any more: what is there already will be overwritten.
        offset_ = 0;
        is_placing_ = false;
        return send_by_ring(budget);
    }
    offset_ += moved;
    budget -= moved;
    if (offset_ < request.length) return Turn::more;
    if (find_room(0).at == nullptr) return Turn::blocked;
    publish(Kind::placed, marks_of(request), request.length, request.remote_token);
    ++messages_sent_;
    counters_.bytes_out += request.length;
    return Turn::done;
}

Stream::Turn Stream::send_by_ring(std::size_t& budget) {
    const iwarp::SendRequest& request = send_queue_[request_next_];
    do {
        const std::uint32_t rest = request.length - offset_;
        if (rest > 0 && budget == 0) return Turn::more;
        const std::uint32_t size = std::min(rest, kFragment);
        const Room room = find_room(size);
        if (room.at == nullptr) return Turn::blocked;
        gather(room.at, size);
        publish(size == rest ? Kind::message : Kind::fragment,
                static_cast<std::uint8_t>(marks_of(request) | room.mark), size,
                request.remote_token);
        counters_.bytes_out += size;
        budget -= std::min<std::size_t>(budget, size);
    } while (offset_ < request.length);
    ++messages_sent_;
    return Turn::done;
}

std::uint8_t Stream::marks_of(const iwarp::SendRequest& request) {
    return static_cast<std::uint8_t>((request.solicits ? mark::kSolicits : 0) |
                                     (request.invalidates ? mark::kInvalidates : 0));
}

// For a slot and `bytes` in one piece: in the slot up to `in_slot`.
Stream::Room Stream::find_room(std::uint32_t bytes, std::uint32_t in_slot) {
    const bool is_bulk = bytes > kSmallMessage;
    Area& area = is_bulk ? bulk_ : data_;
    const std::uint32_t size = is_bulk ? kBulkBytes : kDataBytes;
    area.at = area.sent;
    if (area.at % size + bytes > size) area.at += size - area.at % size;
    const bool is_in_slot = bytes <= in_slot;
    const auto has_room = [&] {
        return slots_sent_ - seen_slots_ < kSlots &&
               (is_in_slot || area.at + bytes - area.taken <= size);
    };
    // What the peer had taken at the last look is mostly enough, and each look waits for another
    // processor's cache.
    if (!has_room() && (!see_room() || !has_room())) return {};
    if (is_in_slot) return {mine_.slots[slots_sent_ % kSlots].bytes.data(), 0};
    return {(is_bulk ? mine_.bulk.data() : mine_.data.data()) + area.at % size,
            is_bulk ? mark::kInBulk : mark::kInData};
}

// False: the peer says what cannot be, and the stream is over.
bool Stream::see_room() {
    // acquire: pairs with the release in receive(): the peer has done with them.
    const std::uint64_t slots = theirs_.consumed_slots.load(std::memory_order_acquire);
    const std::uint64_t data = theirs_.consumed_data.load(std::memory_order_relaxed);
    const std::uint64_t bulk = theirs_.consumed_bulk.load(std::memory_order_relaxed);
    if (slots_sent_ - slots > kSlots || data_.sent - data > kDataBytes ||
        bulk_.sent - bulk > kBulkBytes) {
        fail(iwarp::error::kStreamCatastrophic);
        return false;
    }
    seen_slots_ = slots;
    data_.taken = data;
    bulk_.taken = bulk;
    return true;
}

// After find_room(), with the bytes where they belong.
void Stream::publish(Kind kind, std::uint8_t marks, std::uint32_t length, std::uint32_t value) {
    Slot& slot = mine_.slots[slots_sent_ % kSlots];
    slot.length.store(length, std::memory_order_relaxed);
    slot.value.store(value, std::memory_order_relaxed);
    if ((marks & (mark::kInData | mark::kInBulk)) != 0) {
        Area& area = (marks & mark::kInBulk) != 0 ? bulk_ : data_;
        slot.at.store(area.at, std::memory_order_relaxed);
        area.sent = area.at + length;
    }
    // release: pairs with Line::has_slot(): the slot, what it names, and Writes before it.
    slot.word.store((slots_sent_ + 1) << 16U | static_cast<std::uint64_t>(marks) << 8U |
                        static_cast<std::uint64_t>(kind),
                    std::memory_order_release);
    ++slots_sent_;
    if (kind == Kind::write || (marks & mark::kInvalidates) != 0) settled_slots_ = slots_sent_;
}

// ---- in -------------------------------------------------------------------------------------

bool Stream::receive(std::size_t budget) {
    // acquire: pairs with the release of a verdict, so that what came before it is found below.
    const std::uint32_t verdict = theirs_.verdict.load(std::memory_order_acquire);
    const std::uint64_t before = line_.taken();
    std::uint64_t taken = before;
    bool is_more = false;
    while (wants_read() && line_.has_slot(taken)) {
        if (budget == 0) {
            is_more = true;
            break;
        }
        const Message message(theirs_.slots[taken % kSlots], theirs_);
        if (!take(message)) break;
        ++taken;
        const bool is_copied = message.kind != Kind::placed && message.kind != Kind::immediate;
        budget -= std::min(budget, std::max<std::size_t>(is_copied ? message.length : 0, kLeast));
    }
    if (taken != before) {
        line_.set_taken(taken);
        mine_.consumed_data.store(data_taken_, std::memory_order_relaxed);
        mine_.consumed_bulk.store(bulk_taken_, std::memory_order_relaxed);
        // release: pairs with find_room() and has_settled() of the peer.
        mine_.consumed_slots.store(taken, std::memory_order_release);
        wake(asleep::kForRoom);
        publish_receives();
    }
    if (wants_read() && !line_.has_slot(taken)) {
        if (verdict != 0) {
            handle_verdict(verdict);
        } else if (stream_has_ended_) {
            handle_end();
        }
    }
    return is_more;
}

bool Stream::take_ahead(std::size_t budget, bool& is_more) {
    if (is_paused_) return false;
    is_more = receive(budget);
    // Its deadline wants a step's time.
    const bool has_paused = std::exchange(is_paused_, false);
    return !has_paused && is_open_ && !peer_has_closed_ && answer_.left == 0;
}

// False: it waits for a receive, or the stream is over.
bool Stream::take(const Message& message) {
    switch (message.kind) {
        case Kind::message:
        case Kind::fragment:
            return take_bytes(message);
        case Kind::placed: {
            const bool is_offered =
                messages_ < posted_ && receive_queue_.cursor.published() != receive_next_;
            if (is_in_message_ || !is_offered) break;
            if (!take_receive()) return false;
            if (message.length > receive_queue_[receive_next_].length) break;
            received_ = message.length;
            return end_message(message);
        }
        case Kind::immediate: {
            if (is_in_message_) break;
            if (!take_receive()) return false;
            iwarp::ReceiveRequest& receive = receive_queue_[receive_next_];
            receive.has_immediate = true;
            receive.immediate = message.value;
            received_ = message.length;
            return end_message(message);
        }
        case Kind::write:
            return take_write(message);
        case Kind::read:
            return take_read(message);
        case Kind::fetch_add:
        case Kind::compare_swap:
            return take_atomic(message);
        case Kind::answer:
            return take_answer(message);
        case Kind::none:
            break;
    }
    fail(iwarp::error::kUnexpectedOpcode);
    return false;
}

// Its bytes were copied, and their place is the peer's again.
void Stream::note_taken(const Message& message) {
    if ((message.marks & mark::kInData) != 0) data_taken_ = message.at + message.length;
    if ((message.marks & mark::kInBulk) != 0) bulk_taken_ = message.at + message.length;
}

bool Stream::take_bytes(const Message& message) {
    if (!message.is_sound(data_taken_, bulk_taken_)) {
        fail(iwarp::error::kStreamCatastrophic);
        return false;
    }
    if (!is_in_message_ && !take_receive()) return false;
    iwarp::ReceiveRequest& receive = receive_queue_[receive_next_];
    if (message.length > receive.length - received_) {
        receive.status = Status::buffer_overflow;
        fail(iwarp::error::kUntaggedTooLong);
        return false;
    }
    is_in_message_ = true;
    std::array<iovec, 16> pieces;
    for (std::uint32_t moved = 0; moved < message.length;) {
        const std::size_t left = message.length - moved;
        const std::size_t count = iwarp::slice_segments(
            receive_queue_.segments(receive_next_), received_, left, pieces.data(), pieces.size());
        for (std::size_t i = 0; i < count; ++i) {
            direct::place(static_cast<std::byte*>(pieces[i].iov_base), message.bytes + moved,
                          pieces[i].iov_len);
            moved += static_cast<std::uint32_t>(pieces[i].iov_len);
            received_ += static_cast<std::uint32_t>(pieces[i].iov_len);
        }
    }
    note_taken(message);
    if (received_ - held_offset_ >= iwarp::kNoticeable) {
        held_offset_ = received_;
        held_since_ = now_;
    }
    return message.kind == Kind::fragment || end_message(message);
}

// One of the shared queue is held from here on, also by a peer that takes its message back.
bool Stream::has_receive() {
    if (is_withheld_) [[unlikely]]
        return false;
    if (receive_queue_.cursor.published() != receive_next_) return true;
    if (supply_ == nullptr || !supply_->refill()) return false;
    held_since_ = now_;
    held_offset_ = 0;
    return true;
}

// The receive of a message that begins.
bool Stream::take_receive() {
    if (!has_receive()) {
        // Not an error yet: the message stays where it is, a receive may come.
        is_paused_ = true;
        pause_deadline_ = now_ + receive_wait_;
        return false;
    }
    received_ = 0;
    iwarp::ReceiveRequest& receive = receive_queue_[receive_next_];
    receive.status = Status::success;
    receive.is_solicited = receive.has_invalidated = receive.has_immediate = false;
    return true;
}

bool Stream::end_message(const Message& message) {
    is_in_message_ = false;
    iwarp::ReceiveRequest& receive = receive_queue_[receive_next_];
    receive.received = received_;
    receive.is_solicited = (message.marks & mark::kSolicits) != 0;
    if ((message.marks & mark::kInvalidates) != 0) {
        const iwarp::AccessResult result = own_.invalidate(message.value);
        if (result != iwarp::AccessResult::granted) {
            fail(result == iwarp::AccessResult::not_associated
                     ? iwarp::error::kProtectionCannotInvalidate
                     : iwarp::error::kCannotInvalidate);
            return false;
        }
        receive.has_invalidated = true;
        receive.invalidated_stag = message.value;
    }
    ++receive_next_;
    ++messages_;
    ++counters_.fpdus_in;
    counters_.bytes_in += received_;
    return true;
}

// Receives in one piece, for messages that the peer has not sent.
void Stream::publish_receives() {
    if (supply_ != nullptr || !is_open_) return;
    posted_ = std::max(posted_, messages_);
    for (; posted_ - messages_ < kPosted; ++posted_) {
        const std::uint32_t position =
            receive_next_ + static_cast<std::uint32_t>(posted_ - messages_);
        if (position == receive_queue_.cursor.published()) return;
        const auto segments = receive_queue_.segments(position);
        if (segments.size() != 1 || segments[0].pages != nullptr) continue;
        if (segments[0].length <= kSmallMessage) continue;  // goes through the ring
        Posted& receive = mine_.posted[posted_ % kPosted];
        receive.where.store(reach_.place_of(segments[0].data, segments[0].length),
                            std::memory_order_relaxed);
        receive.length.store(segments[0].length, std::memory_order_relaxed);
        // release: pairs with the acquire in can_place().
        receive.stamp.store(posted_ + 1, std::memory_order_release);
    }
}

}  // namespace ndv::direct

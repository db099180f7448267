// SPDX-License-Identifier: Apache-2.0
// Requests for memory of the peer's that is not within reach: they go through the ring, and the
// peer executes them with the checks that it makes of frames. One that is answered waits for its
// answer.
#include <algorithm>
#include <array>
#include <cstring>

#include "direct/copy.hpp"
#include "direct/message.hpp"
#include "direct/stream.hpp"
#include "iwarp/receiver.hpp"

namespace ndv::direct {

using iwarp::AccessResult;
using iwarp::Pin;
using iwarp::RemoteRight;
using iwarp::RequestKind;

// ---- out ------------------------------------------------------------------------------------

Stream::Turn Stream::carry(std::size_t& budget) {
    const iwarp::SendRequest& request = send_queue_[request_next_];
    let_go();
    if (!iwarp::is_answered(request.kind)) return carry_write(budget);
    if (!has_asked_) {
        const Room room = find_room(0);
        if (room.at == nullptr) return Turn::blocked;
        Target target{request.remote_address + offset_, request.operand, 0};
        Kind kind = Kind::fetch_add;
        if (request.kind == RequestKind::read) {
            kind = Kind::read;
            target.operand = request.length - offset_;
        } else if (request.kind == RequestKind::compare_swap) {
            kind = Kind::compare_swap;
            target.compare = request.compare;
        }
        std::memcpy(room.at, &target, sizeof target);
        publish(kind, 0, 0, request.remote_token);
        has_asked_ = true;
    }
    if (offset_ == request.length) return Turn::done;
    // It waits for no room: that the peer takes more is no news.
    seen_slots_ = theirs_.consumed_slots.load(std::memory_order_acquire);
    return Turn::blocked;
}

Stream::Turn Stream::carry_write(std::size_t& budget) {
    const iwarp::SendRequest& request = send_queue_[request_next_];
    do {
        const std::uint32_t rest = request.length - offset_;
        if (budget == 0) return Turn::more;
        const std::uint32_t size = std::min(rest, kFragment);
        const Target target{request.remote_address + offset_, rest, 0};
        const Room room = find_room(size, 0);
        if (room.at == nullptr) return Turn::blocked;
        std::memcpy(mine_.slots[slots_sent_ % kSlots].bytes.data(), &target, sizeof target);
        gather(room.at, size);
        publish(Kind::write, room.mark, size, request.remote_token);
        counters_.bytes_out += size;
        budget -= std::min<std::size_t>(budget, size);
    } while (offset_ < request.length);
    return Turn::done;
}

bool Stream::take_answer(const Message& message) {
    const bool is_asked = has_asked_ && message.length > 0 &&
                          message.length <= send_queue_[request_next_].length - offset_;
    if (!is_asked || !message.is_sound(data_taken_, bulk_taken_)) {
        fail(iwarp::error::kStreamCatastrophic);
        return false;
    }
    scatter(message.bytes, message.length);
    note_taken(message);
    counters_.bytes_in += message.length;
    return true;
}

// ---- in -------------------------------------------------------------------------------------

bool Stream::take_write(const Message& message) {
    const std::uint64_t rest = message.target.operand;
    if (is_in_message_ || (message.marks & (mark::kInData | mark::kInBulk)) == 0 ||
        !message.is_sound(data_taken_, bulk_taken_) || message.length > rest ||
        rest > 0xFFFFFFFFU) {
        fail(iwarp::error::kStreamCatastrophic);
        return false;
    }
    Pin pin;
    // All that is to come of it: what is refused was not done in part.
    const AccessResult result = own_.pin(message.value, message.target.address,
                                         static_cast<std::uint32_t>(rest), RemoteRight::write, pin);
    if (result != AccessResult::granted) {
        fail(iwarp::write_error(result));
        return false;
    }
    std::array<iovec, 16> pieces;
    for (std::size_t moved = 0; moved < message.length;) {
        const std::size_t left = message.length - moved;
        const std::size_t count =
            iwarp::slice_pin(own_, pin, moved, left, pieces.data(), pieces.size());
        const iovec piece{const_cast<std::byte*>(message.bytes + moved), left};
        moved += direct::place({pieces.data(), count}, {&piece, 1});
    }
    own_.unpin(pin);
    note_taken(message);
    counters_.bytes_in += message.length;
    return true;
}

bool Stream::take_read(const Message& message) {
    const std::uint64_t length = message.target.operand;
    // A peer has one under way at a time.
    if (answer_.left != 0 || length == 0 || length > 0xFFFFFFFFU) {
        fail(iwarp::error::kStreamCatastrophic);
        return false;
    }
    answer_ = {message.value, static_cast<std::uint32_t>(length), message.target.address};
    return true;
}

bool Stream::take_atomic(const Message& message) {
    if (answer_.left != 0) {
        fail(iwarp::error::kStreamCatastrophic);
        return false;
    }
    Pin pin;
    std::uint64_t value = 0;
    const AccessResult result =
        own_.pin(message.value, message.target.address, sizeof value, RemoteRight::atomic, pin);
    if (result != AccessResult::granted) {
        fail(iwarp::read_error(result));
        return false;
    }
    iovec word{};
    const bool is_aligned = iwarp::slice_pin(own_, pin, 0, sizeof value, &word, 1) == 1 &&
                            is_word(message.target.address, word);
    if (is_aligned) {
        const bool is_add = message.kind == Kind::fetch_add;
        value = run(is_add ? RequestKind::fetch_add : RequestKind::compare_swap, word.iov_base,
                    message.target.operand, message.target.compare);
    }
    own_.unpin(pin);
    if (!is_aligned) {
        fail(iwarp::error::kStreamCatastrophic);
        return false;
    }
    answer_.left = sizeof value;
    answer_.word = value;
    answer_.is_word = true;
    return true;
}

// What the peer has asked for. True: more of it could go out at once.
bool Stream::answer(std::size_t& budget) {
    answer_.is_blocked = false;
    while (is_open_ && answer_.left > 0) {
        if (budget == 0) return true;
        const std::uint32_t size = std::min(answer_.left, kFragment);
        const Room room = find_room(size);
        if (room.at == nullptr) {
            answer_.is_blocked = true;
            break;
        }
        if (answer_.is_word) {
            std::memcpy(room.at, &answer_.word, sizeof answer_.word);
        } else if (!fetch(room.at, size)) {
            break;
        }
        publish(Kind::answer, room.mark, size, 0);
        answer_.left -= size;
        answer_.address += size;
        counters_.bytes_out += size;
        budget -= std::min<std::size_t>(budget, size);
    }
    return false;
}

bool Stream::fetch(std::byte* to, std::uint32_t size) {
    Pin pin;
    const AccessResult result =
        own_.pin(answer_.token, answer_.address, answer_.left, RemoteRight::read, pin);
    if (result != AccessResult::granted) {
        fail(iwarp::read_error(result));
        return false;
    }
    std::array<iovec, 16> pieces;
    for (std::size_t moved = 0; moved < size;) {
        const std::size_t count =
            iwarp::slice_pin(own_, pin, moved, size - moved, pieces.data(), pieces.size());
        const iovec piece{to + moved, size - moved};
        moved += direct::place({&piece, 1}, {pieces.data(), count});
    }
    own_.unpin(pin);
    return true;
}

}  // namespace ndv::direct

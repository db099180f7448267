// SPDX-License-Identifier: Apache-2.0
// Requests, executed in the order of the send queue.
#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "direct/copy.hpp"
#include "direct/stream.hpp"
#include "iwarp/receiver.hpp"
#include "iwarp/sender.hpp"

namespace ndv::direct {

using iwarp::AccessResult;
using iwarp::RemoteRight;
using iwarp::RequestKind;
using iwarp::SendRequest;

namespace {

// What the kernel copies at once.
constexpr std::uint32_t kCallPiece = 1024 * 1024;
// Up to here it is not worth a call, where the peer will look at the ring anyway.
constexpr std::uint32_t kSmallCall = 512;

}  // namespace

std::size_t Stream::backlog() {
    if (!wants_write()) return 0;
    const bool is_next = !is_blocked_ && request_next_ != send_queue_.cursor.published();
    const std::size_t request = is_next ? send_queue_[request_next_].length - offset_ : 0;
    return std::max<std::size_t>(answer_.is_blocked ? 0 : answer_.left, request);
}

bool Stream::transmit(std::size_t budget) {
    is_blocked_ = false;
    const std::uint64_t published = slots_sent_;
    bool is_more = answer(budget);
    while (is_open_ && request_next_ != send_queue_.cursor.published()) {
        if (budget == 0) {
            is_more = true;
            break;
        }
        // A process that has died closes its sockets in order. TCP would answer a reset.
        if (peer_has_closed_ && theirs_.closing.load(std::memory_order_relaxed) == 0 &&
            !bells_.lives_peer()) {
            handle_link_error(ECONNRESET);
            break;
        }
        Turn turn = execute(budget);
        // Nothing makes room any more. seq_cst: see touch().
        if (turn == Turn::blocked && is_open_ &&
            theirs_.closing.load(std::memory_order_seq_cst) != 0) {
            turn = gone();
        }
        if (turn != Turn::done) {
            is_more = is_more || turn == Turn::more;
            is_blocked_ = turn == Turn::blocked;
            break;
        }
        send_queue_[request_next_].progress = SendRequest::Progress::done;
        ++request_next_;
        offset_ = 0;
        is_carried_ = has_asked_ = false;
        ++counters_.fpdus_out;
    }
    let_go();
    check_drained();
    if (slots_sent_ != published) wake(asleep::kForMessages);
    return is_more;
}

bool Stream::begin_ahead(bool is_in_row) {
    is_in_row_ = is_in_row;
    slots_told_ = slots_sent_;
    return is_open_ && !is_disconnecting_ && !peer_has_closed_ &&
           request_next_ == send_queue_.cursor.published();
}

bool Stream::run_ahead() {
    std::size_t budget = std::max<std::size_t>(send_queue_[request_next_].length, 1);
    if (execute(budget) != Turn::done) return false;
    offset_ = 0;
    is_carried_ = has_asked_ = false;
    ++counters_.fpdus_out;
    return true;
}

bool Stream::copy_ahead(RemoteRight right, std::uint32_t token, std::uint64_t address,
                        std::byte* own, std::uint32_t length) {
    const bool is_read = right == RemoteRight::read;
    if (length == 0 || !touch_token(token) || !has_settled(is_read)) return false;
    std::byte* const theirs = reach_.find(token, address, length, right);
    if (theirs == nullptr) return false;
    place(is_read ? own : theirs, is_read ? theirs : own, length);
    (is_read ? counters_.bytes_in : counters_.bytes_out) += length;
    ++counters_.fpdus_out;
    return true;
}

bool Stream::fetch_ahead(RequestKind kind, std::uint32_t token, std::uint64_t address,
                         std::uint64_t operand, std::uint64_t compare, std::uint64_t& found) {
    if (!touch_token(token) || !has_settled(true)) return false;
    std::byte* const theirs = reach_.find(token, address, sizeof found, RemoteRight::atomic);
    if (theirs == nullptr || !is_word(address, {theirs, sizeof found})) return false;
    found = run(kind, theirs, operand, compare);
    ++counters_.fpdus_out;
    return true;
}

void Stream::end_ahead() {
    let_go();
    if (std::exchange(slots_told_, slots_sent_) != slots_sent_) wake(asleep::kForMessages);
}

Stream::Turn Stream::execute(std::size_t& budget) {
    const SendRequest& request = send_queue_[request_next_];
    if (peer_has_closed_ && iwarp::is_answered(request.kind)) {
        // No peer is left to answer it.
        blame(request_next_, Status::io_timeout);
        end({iwarp::Cause::Source::local, iwarp::error::kLlpClosed, 0});
        return Turn::ended;
    }
    switch (request.kind) {
        case RequestKind::send:
            return send(budget);
        case RequestKind::write:
            return move(RemoteRight::write, budget);
        case RequestKind::write_immediate:
            return write_immediate(budget);
        case RequestKind::read:
            return read(budget);
        case RequestKind::fetch_add:
        case RequestKind::compare_swap:
            return run_atomic(budget);
        case RequestKind::bind:
        case RequestKind::fast_register:
        case RequestKind::invalidate:
            return run_local();
    }
    return Turn::done;
}

// Between the request's own memory and the part of the peer's that it names.
Stream::Turn Stream::move(RemoteRight right, std::size_t& budget) {
    const SendRequest& request = send_queue_[request_next_];
    const std::uint32_t rest = request.length - offset_;
    if (rest == 0) {  // as iWARP: not checked; a Read has its turn
        const bool is_early = right == RemoteRight::read && offset_ == 0 && !has_settled(true);
        return is_early ? Turn::blocked : Turn::done;
    }
    if (is_carried_) return carry(budget);
    if (!touch_token(request.remote_token)) return gone();
    Grip grip;
    // The whole rest at once: what is refused must not have been done in part.
    const AccessResult result =
        reach_.take(request.remote_token, request.remote_address + offset_, rest, right, grip);
    if (result != AccessResult::granted) {
        if (right == RemoteRight::read && !has_settled(true)) return Turn::blocked;
        return refuse(right == RemoteRight::write ? iwarp::write_error(result)
                                                  : iwarp::read_error(result));
    }
    // One of several that are small goes sooner with the others through the ring. Ahead of the
    // queue there are none in it.
    const std::uint32_t waiting = send_queue_.cursor.published() - request_next_;
    const bool is_small = right == RemoteRight::write && rest <= kSmallCall &&
                          (waiting > 1 || (waiting == 0 && is_in_row_));
    const bool is_reached = grip.way == Way::loads || (grip.way == Way::calls && !is_small);
    const bool has_turn = !is_reached || has_settled(right == RemoteRight::read);
    std::uint32_t moved = 0;
    if (is_reached && has_turn) {
        moved =
            copy(grip, 0, right, static_cast<std::uint32_t>(std::min<std::size_t>(rest, budget)));
    }
    reach_.let_go(grip);
    if (!has_turn) return Turn::blocked;
    offset_ += moved;
    budget -= moved;
    (right == RemoteRight::write ? counters_.bytes_out : counters_.bytes_in) += moved;
    if (offset_ == request.length) return Turn::done;
    if (budget == 0) return Turn::more;
    is_carried_ = true;  // also where the kernel copies no more
    return carry(budget);
}

// Between the request's own memory, where it has arrived, and what is in hand from `at` on. Less
// than `size`: the kernel refuses.
std::uint32_t Stream::copy(const Grip& grip, std::size_t at, RemoteRight right,
                           std::uint32_t size) {
    std::array<iovec, 16> theirs;
    std::array<iovec, 16> ours;
    std::uint32_t moved = 0;
    while (moved < size) {
        const bool is_called = grip.way == Way::calls;
        const std::size_t left = std::min<std::size_t>(size - moved, is_called ? kCallPiece : size);
        const std::size_t count = iwarp::slice_segments(
            send_queue_.segments(request_next_), offset_ + moved, left, ours.data(), ours.size());
        std::size_t done = 0;
        if (is_called) {
            done = reach_.call(grip, at + moved, right, ours.data(), count);
            if (done == 0) break;
        } else {
            const Pieces remote{
                theirs.data(), reach_.pieces(grip, at + moved, left, theirs.data(), theirs.size())};
            const Pieces local{ours.data(), count};
            done = right == RemoteRight::write ? direct::place(remote, local)
                                               : direct::place(local, remote);
        }
        moved += static_cast<std::uint32_t>(done);
    }
    return moved;
}

// Whether the peer has taken the last message that changes its memory for what comes behind it: a
// token that it names is dead by then, and bytes that it carries are in their place. A request that
// is answered comes behind every message (RFC 5040 section 5.5).
bool Stream::has_settled(bool is_answered) {
    const std::uint64_t last = is_answered ? slots_sent_ : settled_slots_;
    if (seen_slots_ >= last) return true;
    // acquire: pairs with the release in receive(): what the peer changed before.
    seen_slots_ = theirs_.consumed_slots.load(std::memory_order_acquire);
    return seen_slots_ >= last;
}

Stream::Turn Stream::write_immediate(std::size_t& budget) {
    if (const Turn turn = move(RemoteRight::write, budget); turn != Turn::done) return turn;
    if (find_room(0).at == nullptr) return Turn::blocked;
    const SendRequest& request = send_queue_[request_next_];
    publish(Kind::immediate, request.solicits ? mark::kSolicits : std::uint8_t{0}, request.length,
            static_cast<std::uint32_t>(request.operand));
    ++messages_sent_;
    return Turn::done;
}

Stream::Turn Stream::read(std::size_t& budget) {
    if (const Turn turn = move(RemoteRight::read, budget); turn != Turn::done) return turn;
    const SendRequest& request = send_queue_[request_next_];
    if (!request.invalidates) return Turn::done;
    // The data is here; only now its sink may go. That may wait for other connections' steps.
    let_go();
    return end_local(own_.invalidate_sink(request.local_token));
}

Stream::Turn Stream::run_local() {
    let_go();
    return end_local(own_.execute(send_queue_[request_next_]));
}

Stream::Turn Stream::end_local(Status status) {
    if (status == Status::success) return Turn::done;
    blame(request_next_, status);
    fail(iwarp::error::kLocalCatastrophic);
    return Turn::ended;
}

// A word that is aligned by both counts lies in one piece, also in pages.
bool Stream::is_word(std::uint64_t address, const iovec& piece) {
    constexpr std::size_t kSize = sizeof(std::uint64_t);
    return address % kSize == 0 && piece.iov_len == kSize &&
           reinterpret_cast<std::uintptr_t>(piece.iov_base) % kSize == 0;
}

// seq_cst: pairs with the atomics of other steppers, and of programs that map the word.
std::uint64_t Stream::run(RequestKind kind, void* word, std::uint64_t operand,
                          std::uint64_t compare) {
    const std::atomic_ref<std::uint64_t> target(*static_cast<std::uint64_t*>(word));
    if (kind == RequestKind::fetch_add) {
        return target.fetch_add(operand, std::memory_order_seq_cst);
    }
    target.compare_exchange_strong(compare, operand, std::memory_order_seq_cst);
    return compare;
}

Stream::Turn Stream::run_atomic(std::size_t& budget) {
    const SendRequest& request = send_queue_[request_next_];
    if (is_carried_) return carry(budget);
    if (!touch_token(request.remote_token)) return gone();
    Grip grip;
    std::uint64_t value = 0;
    const AccessResult result = reach_.take(request.remote_token, request.remote_address,
                                            sizeof value, RemoteRight::atomic, grip);
    if (result != AccessResult::granted) {
        return has_settled(true) ? refuse(iwarp::read_error(result)) : Turn::blocked;
    }
    if (grip.way != Way::loads) {
        reach_.let_go(grip);
        is_carried_ = true;
        return carry(budget);
    }
    const bool has_turn = has_settled(true);
    iovec word{};
    const bool is_aligned = reach_.pieces(grip, 0, sizeof value, &word, 1) == 1 &&
                            is_word(request.remote_address, word);
    if (has_turn && is_aligned) {
        value = run(request.kind, word.iov_base, request.operand, request.compare);
    }
    reach_.let_go(grip);
    if (!has_turn) return Turn::blocked;
    if (!is_aligned) return refuse(iwarp::error::kStreamCatastrophic);
    // In this host's byte order, wherever the caller wants it: the place need not be aligned.
    scatter(reinterpret_cast<const std::byte*>(&value), sizeof value);
    return Turn::done;
}

// ---- the request's own memory, where it has arrived -----------------------------------------

void Stream::gather(std::byte* to, std::uint32_t size) {
    std::array<iovec, 16> ours;
    for (std::uint32_t moved = 0; moved < size;) {
        const std::size_t count =
            iwarp::slice_segments(send_queue_.segments(request_next_), offset_ + moved,
                                  size - moved, ours.data(), ours.size());
        for (std::size_t i = 0; i < count; ++i) {
            std::memcpy(to + moved, ours[i].iov_base, ours[i].iov_len);
            moved += static_cast<std::uint32_t>(ours[i].iov_len);
        }
    }
    offset_ += size;
}

void Stream::scatter(const std::byte* from, std::uint32_t size) {
    std::array<iovec, 16> ours;
    for (std::uint32_t moved = 0; moved < size;) {
        const std::size_t count =
            iwarp::slice_segments(send_queue_.segments(request_next_), offset_ + moved,
                                  size - moved, ours.data(), ours.size());
        const iovec piece{const_cast<std::byte*>(from + moved), size - moved};
        moved += static_cast<std::uint32_t>(direct::place({ours.data(), count}, {&piece, 1}));
    }
    offset_ += size;
}

}  // namespace ndv::direct

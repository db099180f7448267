// SPDX-License-Identifier: Apache-2.0
// Requests, executed in the order of the send queue.
#include <algorithm>
#include <array>
#include <atomic>

#include "direct/copy.hpp"
#include "direct/stream.hpp"
#include "iwarp/receiver.hpp"
#include "iwarp/sender.hpp"

namespace ndv::direct {

using iwarp::AccessResult;
using iwarp::Pin;
using iwarp::RemoteRight;
using iwarp::RequestKind;
using iwarp::SendRequest;

std::size_t Stream::backlog() {
    return wants_write() ? send_queue_[request_next_].length - offset_ : 0;
}

bool Stream::transmit(std::size_t budget) {
    is_blocked_ = false;
    const std::uint64_t published = slots_sent_;
    bool is_more = false;
    while (is_open_ && request_next_ != send_queue_.cursor.published()) {
        if (budget == 0) {
            is_more = true;
            break;
        }
        Turn turn = execute(budget);
        // Nothing makes room any more. seq_cst: see touch().
        if (turn == Turn::blocked && is_open_ &&
            theirs_.closing.load(std::memory_order_seq_cst) != 0) {
            turn = gone();
        }
        if (turn != Turn::done) {
            is_more = turn == Turn::more;
            is_blocked_ = turn == Turn::blocked;
            break;
        }
        send_queue_[request_next_].progress = SendRequest::Progress::done;
        ++request_next_;
        offset_ = 0;
        ++counters_.fpdus_out;
    }
    let_go();
    check_drained();
    if (slots_sent_ != published) wake(asleep::kForMessages);
    return is_more;
}

// Requests that this side executes in the peer's memory.
bool Stream::reaches_peer(RequestKind kind) {
    return kind == RequestKind::write || kind == RequestKind::write_immediate ||
           iwarp::is_answered(kind);
}

// Whether the peer has taken the last message that invalidates: what comes behind it finds the
// token dead, as it would on the wire.
bool Stream::has_invalidated() {
    if (seen_slots_ >= invalidating_slots_) return true;
    // acquire: pairs with the release in receive(): what the peer changed before.
    seen_slots_ = theirs_.consumed_slots.load(std::memory_order_acquire);
    return seen_slots_ >= invalidating_slots_;
}

Stream::Turn Stream::execute(std::size_t& budget) {
    const SendRequest& request = send_queue_[request_next_];
    if (peer_has_closed_ && iwarp::is_answered(request.kind)) {
        // No peer is left to answer it.
        blame(request_next_, Status::io_timeout);
        end({iwarp::Cause::Source::local, iwarp::error::kLlpClosed, 0});
        return Turn::ended;
    }
    if (reaches_peer(request.kind) && !has_invalidated()) return Turn::blocked;
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
            return run_atomic();
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
    if (rest == 0) return Turn::done;  // as iWARP: not checked
    if (!touch()) return gone();
    Pin pin;
    // The whole rest at once: what is refused must not have been done in part.
    const AccessResult result =
        remote_.pin(request.remote_token, request.remote_address + offset_, rest, right, pin);
    if (result != AccessResult::granted) {
        return refuse(right == RemoteRight::write ? iwarp::write_error(result)
                                                  : iwarp::read_error(result));
    }
    const auto size = static_cast<std::uint32_t>(std::min<std::size_t>(rest, budget));
    std::array<iovec, 16> theirs;
    std::array<iovec, 16> ours;
    for (std::uint32_t moved = 0; moved < size;) {
        const std::size_t left = size - moved;
        const Pieces remote{theirs.data(),
                            slice_pin(remote_, pin, moved, left, theirs.data(), theirs.size())};
        const Pieces local{
            ours.data(), iwarp::slice_segments(send_queue_.segments(request_next_), offset_ + moved,
                                               left, ours.data(), ours.size())};
        moved +=
            static_cast<std::uint32_t>(right == RemoteRight::write ? direct::place(remote, local)
                                                                   : direct::place(local, remote));
    }
    remote_.unpin(pin);
    offset_ += size;
    budget -= size;
    (right == RemoteRight::write ? counters_.bytes_out : counters_.bytes_in) += size;
    return offset_ == request.length ? Turn::done : Turn::more;
}

Stream::Turn Stream::write_immediate(std::size_t& budget) {
    if (const Turn turn = move(RemoteRight::write, budget); turn != Turn::done) return turn;
    if (!has_room(0)) return Turn::blocked;
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

// seq_cst: pairs with the atomics of other steppers, and of programs that map the word.
Stream::Turn Stream::run_atomic() {
    const SendRequest& request = send_queue_[request_next_];
    if (!touch()) return gone();
    Pin pin;
    std::uint64_t value = 0;
    const AccessResult result = remote_.pin(request.remote_token, request.remote_address,
                                            sizeof value, RemoteRight::atomic, pin);
    if (result != AccessResult::granted) return refuse(iwarp::read_error(result));
    iovec word{};
    // A word that is aligned by both counts lies in one piece, also in pages.
    const bool is_aligned = request.remote_address % sizeof value == 0 &&
                            slice_pin(remote_, pin, 0, sizeof value, &word, 1) == 1 &&
                            word.iov_len == sizeof value &&
                            reinterpret_cast<std::uintptr_t>(word.iov_base) % sizeof value == 0;
    if (is_aligned) {
        const std::atomic_ref<std::uint64_t> target(*static_cast<std::uint64_t*>(word.iov_base));
        if (request.kind == RequestKind::fetch_add) {
            value = target.fetch_add(request.operand, std::memory_order_seq_cst);
        } else {
            value = request.compare;
            target.compare_exchange_strong(value, request.operand, std::memory_order_seq_cst);
        }
    }
    remote_.unpin(pin);
    if (!is_aligned) return refuse(iwarp::error::kStreamCatastrophic);
    // In this host's byte order, wherever the caller wants it: the place need not be aligned.
    std::array<iovec, sizeof value> ours;
    const std::size_t count = iwarp::slice_segments(send_queue_.segments(request_next_), 0,
                                                    sizeof value, ours.data(), ours.size());
    const iovec from{&value, sizeof value};
    direct::place({ours.data(), count}, {&from, 1});
    return Turn::done;
}

}  // namespace ndv::direct

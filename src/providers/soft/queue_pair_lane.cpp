// SPDX-License-Identifier: Apache-2.0
// The express lanes of a direct connection. Out: requests that are done while they are posted. Each
// is executed in the slot that it would have, which is never published; its memory is pinned
// meanwhile and needs no reference; its completion is pushed here. A lane is a small step, without
// what only messages, TCP and deadlines need. Whatever it does not do at once takes the ordinary
// way. In: messages that a poll has found.
#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "providers/soft/queue_pair.hpp"

namespace ndv::soft {
namespace {

// Bytes that a batch moves under the GIL: as long as it takes to post it.
constexpr std::size_t kBatchStep = 256 * 1024;

// A deferred request waits for another; what ends memory must not meet a pin of its own.
constexpr std::uint32_t kOrdinary = core::flag::kDefer | core::flag::kRdmaReadLocalInvalidate;

}  // namespace

bool QueuePair::express(const core::WorkRequest& request, std::uint32_t length,
                        std::uint32_t rights) {
    if (!is_direct() || (!lane_.is_batch && !enter_lane(core::kSmallStep)) || !lane_.is_open) {
        return false;
    }
    const bool is_taken = run_in_lane(request, length, rights);
    // What takes the ordinary way does so behind the others of a batch, and before the next.
    if (!is_taken || lane_.owes_step || !lane_.is_batch) close_lane();
    if (!lane_.is_batch) leave_word();
    return is_taken;
}

void QueuePair::begin_batch() {
    lane_.is_batch = true;
    if (is_direct()) static_cast<void>(enter_lane(kBatchStep));
}

void QueuePair::end_batch() noexcept {
    lane_.is_batch = false;
    close_lane();
    leave_word();
}

bool QueuePair::enter_lane(std::size_t budget) {
    // Only this thread posts: an empty queue stays so.
    if (send_queue_.cursor.size() != 0 || !word_.try_enter()) return false;
    lane_.has_word = true;
    // What ended here and is in the hand of a peer holds completions back.
    lane_.is_open = direct_ != nullptr && !is_flushed_ && !has_no_memory_ && !settle_at_ &&
                    direct_->begin_ahead(lane_.is_batch);
    lane_.budget = budget;
    if (!lane_.is_open) leave_word();
    return lane_.is_open;
}

// For what has no slot to fall back to.
bool QueuePair::enter_lane_for(iwarp::RequestKind kind, std::size_t budget) {
    // relaxed: see its declaration.
    const bool is_allowed =
        !iwarp::is_answered(kind) || outbound_read_limit_.load(std::memory_order_relaxed) != 0;
    return is_allowed && is_direct() && enter_lane(budget);
}

std::size_t QueuePair::move_now(core::OperationType type, std::byte* own,
                                std::uint64_t remote_address, std::uint32_t token,
                                std::span<const core::Span> spans) {
    const bool is_read = type == core::OperationType::read;
    if (!enter_lane_for(is_read ? iwarp::RequestKind::read : iwarp::RequestKind::write,
                        kBatchStep)) {
        return 0;
    }
    const auto right = is_read ? iwarp::RemoteRight::read : iwarp::RemoteRight::write;
    std::size_t done = 0;
    for (const core::Span& span : spans) {
        if (span.length > lane_.budget ||
            !direct_->copy_ahead(right, token, remote_address + span.remote, own + span.local,
                                 static_cast<std::uint32_t>(span.length))) {
            break;
        }
        lane_.budget -= span.length;
        ++done;
        if (++lane_.requests == kLaneRun) deliver_lane();
    }
    close_lane();
    leave_word();
    return done;
}

bool QueuePair::fetch_now(const core::WorkRequest& request, std::uint64_t& found) {
    const iwarp::RequestKind kind = kind_of(request);
    if (!enter_lane_for(kind, core::kSmallStep)) return false;
    const bool is_done = direct_->fetch_ahead(kind, request.remote_token, request.remote_address,
                                              request.operand, request.compare, found);
    close_lane();
    leave_word();
    return is_done;
}

bool QueuePair::run_in_lane(const core::WorkRequest& request, std::uint32_t length,
                            std::uint32_t rights) {
    const iwarp::RequestKind kind = kind_of(request);
    if ((request.flags & kOrdinary) != 0 || request.segments.size() > 1 || length > lane_.budget) {
        return false;
    }
    // relaxed: see its declaration.
    if (iwarp::is_answered(kind) && outbound_read_limit_.load(std::memory_order_relaxed) == 0) {
        return false;
    }
    core::LocalBuffer local;
    if (!request.segments.empty() && !find_in_lane(request, rights, local)) return false;
    const bool is_copy = kind == iwarp::RequestKind::write || kind == iwarp::RequestKind::read;
    const auto right =
        kind == iwarp::RequestKind::read ? iwarp::RemoteRight::read : iwarp::RemoteRight::write;
    if (is_copy && local.data != nullptr &&
        direct_->copy_ahead(right, request.remote_token, request.remote_address, local.data,
                            length)) {
        lane_.budget -= length;
        note_done(request);
        return true;
    }
    const std::uint32_t position = send_queue_.cursor.tail_position();
    iwarp::SendRequest& slot = fill_slot(request, kind, length);
    iwarp::PostedSegment& segment = send_queue_.segment_storage(position)[0];
    segment = {local.data, length, nullptr, local.pages, local.offset};
    slot.segment_count = static_cast<std::uint16_t>(request.segments.size());
    lane_.budget -= length;
    if (!direct_->run_ahead()) {
        // From here on the slot has what one has that was posted.
        segment.owner = local.hold;
        if (local.hold != nullptr) {
            local.hold->add_reference();
        } else if (length > 0) {
            segment.data = send_queue_.inline_storage(position).data();
            std::memcpy(segment.data, local.data, length);
        }
        send_queue_.cursor.publish();
        lane_.owes_step = true;
        return true;
    }
    note_done(request);
    return true;
}

void QueuePair::note_done(const core::WorkRequest& request) {
    if (request.done_at_once != nullptr) *request.done_at_once = true;
    if ((request.flags & core::flag::kSilentSuccess) != 0 || request.done_at_once != nullptr) {
        end_silently(request.context, request.context_is_object);
    } else {
        core::Completion& done = lane_.run.emplace_back();
        done.type = request.type;
        done.context = request.context;
        done.context_is_object = request.context_is_object;
    }
    if (++lane_.requests == kLaneRun) deliver_lane();
}

// False: not granted, as far as the table shows; core says why, or finds it elsewhere.
bool QueuePair::find_in_lane(const core::WorkRequest& request, std::uint32_t rights,
                             core::LocalBuffer& out) {
    const core::Segment& segment = request.segments.front();
    if ((request.flags & core::flag::kInline) != 0) {
        // The caller's own memory, for as long as the call lasts.
        out.data = reinterpret_cast<std::byte*>(segment.address);
        return segment.token == 0;
    }
    if (lane_.pinned == nullptr || segment.token != lane_.token) {
        if (lane_.pinned != nullptr) MemoryTable::unpin(lane_.pinned);
        lane_.token = segment.token;
        lane_.pinned = memory_.pin_local(segment.token);
        if (lane_.pinned == nullptr) return false;
    }
    // Sealed: its region was just given back to the caller.
    return memory_.grant_local(lane_.pinned->content, segment, rights, out) &&
           !out.hold->is_sealed();
}

// No pin is held when requests end. Without memory to say so, the connection ends in the next step:
// what was done is in the queue.
void QueuePair::deliver_lane() {
    direct_->end_ahead();
    if (lane_.pinned != nullptr) MemoryTable::unpin(std::exchange(lane_.pinned, nullptr));
    lane_.requests = 0;
    try {
        if (!deliver(lane_.run)) {
            is_flushed_ = true;
            direct_->handle_flush();
            lane_.owes_step = true;
        }
    } catch (const std::bad_alloc&) {
        lane_.is_open = lane_.has_word = false;
        leave_without_memory();
    }
    lane_.run.clear();
}

void QueuePair::close_lane() {
    if (!lane_.is_open) return;
    deliver_lane();
    if (!std::exchange(lane_.is_open, false)) return;
    count_traffic();
}

void QueuePair::leave_word() {
    const bool owes_step = std::exchange(lane_.owes_step, false);
    if (!std::exchange(lane_.has_word, false)) return;
    // relaxed: this thread takes it itself.
    if (owes_step) reasons_.fetch_or(kTransmit, std::memory_order_relaxed);
    if (!owes_step && word_.leave()) {
        has_left();
        return;
    }
    try {
        if (step_and_leave(core::Budget::small)) {
            lane_has_rest_.store(true, std::memory_order_relaxed);
        }
    } catch (const std::bad_alloc&) {
        // The connection ends in the next step, and the request that was posted with it.
    }
}

bool QueuePair::take_messages(core::Budget budget) {
    if (!word_.try_enter()) return step(kIo, budget);
    bool is_done = false;
    bool is_more = false;
    try {
        is_done = receive_in_lane(budget, is_more);
    } catch (const std::bad_alloc&) {
        leave_without_memory();
        throw;
    }
    if (is_done && word_.leave()) {
        has_left();
        return is_more;
    }
    // relaxed: this thread takes it itself.
    reasons_.fetch_or(kIo, std::memory_order_relaxed);
    return step_and_leave(budget);
}

// False: a step has to see to the rest.
bool QueuePair::receive_in_lane(core::Budget budget, bool& is_more) {
    // A shared queue wants to know how long a message takes.
    if (direct_ == nullptr || soft_srq_ != nullptr || is_flushed_ || has_no_memory_ || settle_at_ ||
        !direct_->begin_ahead(false) || !direct_->take_ahead(step_bytes(budget), is_more) ||
        !memory_.has_settled()) {
        return false;
    }
    deliver_completions();
    count_traffic();
    return !is_flushed_;
}

}  // namespace ndv::soft

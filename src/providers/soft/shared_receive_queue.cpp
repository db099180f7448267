// SPDX-License-Identifier: Apache-2.0
// Posting to, taking from, and resizing a shared receive queue.
#include "providers/soft/shared_receive_queue.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "providers/soft/queue_pair.hpp"

namespace ndv::soft {

SharedReceiveQueue::SharedReceiveQueue(std::shared_ptr<core::ProtectionDomain> pd,
                                       const core::SharedReceiveQueueLimits& limits,
                                       core::RequestContexts* contexts, OnNotify on_notify)
    : core::SharedReceiveQueue(std::move(pd), limits, contexts, std::move(on_notify)),
      ring_(limits.depth, limits.max_sge),
      threshold_(limits.notify_threshold),
      is_armed_(limits.notify_threshold > 0) {}

// NDK leaves open what becomes of receives that no message took: they end without a completion.
SharedReceiveQueue::~SharedReceiveQueue() {
    if (is_foreign()) return;
    const base::Lock lock(mutex_);
    for (std::uint32_t i = 0; i < ring_.count; ++i) {
        const std::size_t at = ring_.slot_of(i);
        const iwarp::ReceiveRequest& slot = ring_.slots[at];
        for (std::uint16_t s = 0; s < slot.segment_count; ++s) {
            static_cast<core::BufferHold*>(ring_.segments_of(at)[s].owner)->release();
        }
        if (slot.context_is_object) contexts()->retire(slot.context);
        receives().end();
    }
}

Status SharedReceiveQueue::do_receive(const core::ReceiveRequest& request,
                                      std::span<const core::LocalBuffer> buffers,
                                      std::uint32_t length) {
    std::vector<std::weak_ptr<QueuePair>> waiting;
    {
        const base::Lock lock(mutex_);
        if (ring_.count == ring_.slots.size()) return Status::no_more_entries;
        const std::size_t at = ring_.slot_of(ring_.count++);
        store_receive(ring_.slots[at], ring_.segments_of(at), request, buffers, length);
        waiting.swap(waiting_);
    }
    // Each of them, though one of the steps finds no memory.
    for (const auto& weak : waiting) {
        if (const auto qp = weak.lock()) qp->step_for_receive();
    }
    return Status::success;
}

bool SharedReceiveQueue::take(iwarp::ReceiveQueue& into) {
    if (into.cursor.is_full()) return false;
    bool is_below = false;
    {
        const base::Lock lock(mutex_);
        if (ring_.count == 0) return false;
        const std::uint32_t position = into.cursor.tail_position();
        const iwarp::ReceiveRequest& slot = into[position] = ring_.slots[ring_.head];
        std::copy_n(ring_.segments_of(ring_.head), slot.segment_count,
                    into.segment_storage(position).begin());
        into.cursor.publish();
        ring_.head = ring_.slot_of(1);
        --ring_.count;
        if (is_armed_ && ring_.count < threshold_) {
            is_armed_ = false;
            is_below = true;
        }
    }
    if (is_below) notify(Status::success);
    return true;
}

bool SharedReceiveQueue::is_empty() const {
    const base::Lock lock(mutex_);
    return ring_.count == 0;
}

bool SharedReceiveQueue::wait_for_receive(const std::shared_ptr<QueuePair>& qp) {
    const base::Lock lock(mutex_);
    if (ring_.count > 0) return false;
    // By owner: a reference made here could be the last one, and its end needs this mutex.
    const bool is_known =
        std::ranges::any_of(waiting_, [&qp](const std::weak_ptr<QueuePair>& weak) {
            return !weak.owner_before(qp) && !qp.owner_before(weak);
        });
    if (!is_known) waiting_.push_back(qp);
    return true;
}

void SharedReceiveQueue::join(QueuePair& qp) {
    const base::Lock lock(mutex_);
    members_.push_back(&qp);
}

void SharedReceiveQueue::leave(const QueuePair& qp) {
    const base::Lock lock(mutex_);
    std::erase(members_, &qp);
}

void SharedReceiveQueue::relieve(Time at) {
    std::shared_ptr<core::Object> first;  // let go of without the mutex
    {
        const base::Lock lock(mutex_);
        if (ring_.count > 0) return;
        Time since = at - kPatience;
        QueuePair* found = nullptr;
        for (QueuePair* const member : members_) {
            const auto held = member->held_since();
            if (!held || *held > since) continue;
            since = *held;
            found = member;
        }
        if (found != nullptr) first = found->weak_from_this().lock();
    }
    if (first) {
        std::static_pointer_cast<QueuePair>(first)->step(QueuePair::kGiveWay, core::Budget::small);
    }
}

Expected<void> SharedReceiveQueue::do_modify(std::uint32_t depth, std::uint32_t notify_threshold) {
    bool is_below = false;
    {
        const base::Lock lock(mutex_);
        if (depth != 0 && depth < ring_.count) {
            return fail(Status::buffer_overflow,
                        "modify: " + std::to_string(ring_.count) +
                            " receives are queued, more than the new depth of " +
                            std::to_string(depth),
                        "the queue is unchanged; let messages take some first");
        }
        if (depth != 0 && depth != ring_.slots.size()) {
            Ring made(depth, max_sge());
            for (; made.count < ring_.count; ++made.count) {
                const std::size_t at = ring_.slot_of(made.count);
                made.slots[made.count] = ring_.slots[at];
                std::copy_n(ring_.segments_of(at), ring_.slots[at].segment_count,
                            made.segments_of(made.count));
            }
            ring_ = std::move(made);
        }
        if (notify_threshold != 0) {
            threshold_ = notify_threshold;
            is_below = ring_.count < threshold_;
            is_armed_ = !is_below;
        }
    }
    if (is_below) notify(Status::success);
    return {};
}

}  // namespace ndv::soft

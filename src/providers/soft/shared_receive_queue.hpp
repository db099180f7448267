// SPDX-License-Identifier: Apache-2.0
// The soft shared receive queue. Its receives are handed out under a mutex that is held for the
// copy of one slot; a queue pair that finds none waits, and is stepped by the next receive posted.
// While one waits, the message that has stood still for longest with a receive gives way.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/mutex.hpp"
#include "core/shared_receive_queue.hpp"
#include "iwarp/work_queue.hpp"
#include "providers/soft/progress.hpp"

namespace ndv::soft {

class QueuePair;

inline void store_segments(iwarp::PostedSegment* to, std::span<const core::LocalBuffer> buffers) {
    for (const core::LocalBuffer& from : buffers) {
        *to++ = {from.data, from.length, from.hold, from.pages, from.offset};
    }
}

// Into a slot of a receive queue, own or shared.
inline void store_receive(iwarp::ReceiveRequest& slot, iwarp::PostedSegment* segments,
                          const core::ReceiveRequest& request,
                          std::span<const core::LocalBuffer> buffers, std::uint32_t length) {
    slot = iwarp::ReceiveRequest{};
    slot.context = request.context;
    slot.context_is_object = request.context_is_object;
    slot.length = length;
    slot.segment_count = static_cast<std::uint16_t>(buffers.size());
    store_segments(segments, buffers);
}

class SharedReceiveQueue final : public core::SharedReceiveQueue {
public:
    SharedReceiveQueue(std::shared_ptr<core::ProtectionDomain> pd,
                       const core::SharedReceiveQueueLimits& limits,
                       core::RequestContexts* contexts, OnNotify on_notify);
    ~SharedReceiveQueue() override;

    // What a message may stand still with a receive that another one waits for.
    static constexpr Time kPatience = std::chrono::seconds(1);

    // The connections that take receives: from attach() to their end.
    void join(QueuePair& qp);
    void leave(const QueuePair& qp);
    // A message has waited for a receive: ends the connection that has stood still for longest.
    void relieve(Time at);
    // From a stepper: moves the oldest receive into a queue of its own. False: there is none.
    [[nodiscard]] bool take(iwarp::ReceiveQueue& into);
    [[nodiscard]] bool is_empty() const;
    // The next receive steps the queue pair; false: there is one now.
    [[nodiscard]] bool wait_for_receive(const std::shared_ptr<QueuePair>& qp);

private:
    // A ring of slots with their segments.
    struct Ring {
        Ring(std::uint32_t depth, std::uint32_t max_sge)
            : width(max_sge), slots(depth), segments(static_cast<std::size_t>(depth) * max_sge) {}
        // The slot of the nth receive, counted from the oldest.
        [[nodiscard]] std::size_t slot_of(std::uint32_t n) const {
            return (head + n) % slots.size();
        }
        [[nodiscard]] iwarp::PostedSegment* segments_of(std::size_t slot) {
            return segments.data() + slot * width;
        }
        std::size_t width;
        std::vector<iwarp::ReceiveRequest> slots;
        std::vector<iwarp::PostedSegment> segments;
        std::size_t head = 0;
        std::uint32_t count = 0;
    };

    [[nodiscard]] Status do_receive(const core::ReceiveRequest& request,
                                    std::span<const core::LocalBuffer> buffers,
                                    std::uint32_t length) override;
    [[nodiscard]] Expected<void> do_modify(std::uint32_t depth,
                                           std::uint32_t notify_threshold) override;

    mutable base::Mutex mutex_;
    Ring ring_ NDV_GUARDED_BY(mutex_);
    std::uint32_t threshold_ NDV_GUARDED_BY(mutex_);
    bool is_armed_ NDV_GUARDED_BY(mutex_);
    std::vector<std::weak_ptr<QueuePair>> waiting_ NDV_GUARDED_BY(mutex_);
    std::vector<QueuePair*> members_ NDV_GUARDED_BY(mutex_);  // they leave before they end
};

}  // namespace ndv::soft

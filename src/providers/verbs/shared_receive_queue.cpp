// SPDX-License-Identifier: Apache-2.0
// Posting to a shared receive queue of the device, and keeping account of it.
#include "providers/verbs/shared_receive_queue.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <string>
#include <utility>

#include "core/mapping.hpp"
#include "providers/verbs/async_events.hpp"
#include "providers/verbs/completion_queue.hpp"
#include "providers/verbs/shadow_queue.hpp"

namespace ndv::verbs {
namespace {

// So many receives fit at least, so that most changes of the depth need nothing of the device:
// some cannot.
constexpr std::uint32_t kLeastRoom = 256;

}  // namespace

HardwareSharedQueue::~HardwareSharedQueue() {
    if (parts_->device->is_foreign()) return;
    if (srq_ != nullptr) {
        parts_->async_events->forget(srq_);
        ibv_destroy_srq(srq_);
    }
    for (core::BufferHold* const hold : kept_) hold->release();
}

Expected<void> HardwareSharedQueue::create(std::uint32_t depth, std::uint32_t max_sge) {
    ibv_srq_init_attr wanted{};
    room_ = std::max(depth, std::min(kLeastRoom, parts_->device->info().max_srq_depth));
    wanted.attr.max_wr = room_;
    wanted.attr.max_sge = std::max(1U, max_sge);
    srq_ = ibv_create_srq(nothing_.domain().get(), &wanted);
    if (srq_ == nullptr) {
        return verb_failed("create_srq: ibv_create_srq of " + std::to_string(depth) + " receives",
                           errno);
    }
    if (parts_->device->quirks().takes_empty_receives) return {};
    if (!nothing_.map(core::page_size())) return verb_failed("create_srq: memory", errno);
    if (!nothing_.register_all()) return verb_failed("create_srq: registering memory", errno);
    return {};
}

int HardwareSharedQueue::set_room(std::uint32_t room) {
    if (room <= room_) return 0;
    ibv_srq_attr attributes{};
    attributes.max_wr = room;
    int failed = std::abs(ibv_modify_srq(srq_, &attributes, IBV_SRQ_MAX_WR));
    // So say drivers that cannot change the depth; that it is within the limits, core has seen.
    if (failed == EINVAL) failed = EOPNOTSUPP;
    if (failed == 0) room_ = room;
    return failed;
}

int HardwareSharedQueue::set_limit(std::uint32_t limit) {
    ibv_srq_attr attributes{};
    attributes.srq_limit = limit;
    return std::abs(ibv_modify_srq(srq_, &attributes, IBV_SRQ_LIMIT));
}

SharedReceiveQueue::SharedReceiveQueue(std::shared_ptr<core::ProtectionDomain> pd,
                                       std::shared_ptr<AdapterParts> parts,
                                       std::shared_ptr<HardwareSharedQueue> hardware,
                                       const core::SharedReceiveQueueLimits& limits,
                                       core::RequestContexts* contexts, OnNotify on_notify)
    : core::SharedReceiveQueue(std::move(pd), limits, contexts, std::move(on_notify)),
      parts_(std::move(parts)),
      hardware_(std::move(hardware)),
      serial_(parts_->take_serial() | WorkId::kIsShared),
      depth_(limits.depth),
      threshold_(limits.notify_threshold),
      is_armed_(limits.notify_threshold > 0),
      pieces_(std::max(1U, limits.max_sge)) {
    const base::Lock lock(mutex_);
    grow_slots();
}

// NDK leaves open what becomes of receives that no message took: they end without a completion.
SharedReceiveQueue::~SharedReceiveQueue() {
    if (is_foreign()) return;
    const base::Lock lock(mutex_);
    for (std::uint32_t slot = 0; slot < slots_.size(); ++slot) {
        if (!slots_[slot].is_used) continue;
        for (core::BufferHold* const hold : holds(slot)) hardware_->keep(hold);
        const Receive& receive = slots_[slot].receive;
        if (receive.context_is_object) contexts()->retire(receive.context);
        receives().end();
    }
}

void SharedReceiveQueue::grow_slots() {
    const auto before = static_cast<std::uint32_t>(slots_.size());
    if (before >= depth_) return;
    slots_.resize(depth_);
    holds_.resize(static_cast<std::size_t>(depth_) * pieces_.size());
    free_.reserve(depth_);
    for (std::uint32_t slot = depth_; slot > before; --slot) free_.push_back(slot - 1);
}

std::span<core::BufferHold*> SharedReceiveQueue::holds(std::uint32_t slot) {
    return {&holds_[slot * pieces_.size()], slots_[slot].segment_count};
}

void SharedReceiveQueue::attach(std::weak_ptr<CompletionQueue> queue) {
    const base::Lock lock(mutex_);
    std::erase_if(queues_, [](const auto& weak) { return weak.expired(); });
    queues_.push_back(std::move(queue));
}

bool SharedReceiveQueue::is_full() const {
    const base::Lock lock(mutex_);
    return queued_ >= depth_;
}

// Receives that messages have taken may wait in hardware queues for a thread to look.
void SharedReceiveQueue::harvest() {
    std::vector<std::weak_ptr<CompletionQueue>> queues;
    {
        const base::Lock lock(mutex_);
        queues = queues_;
    }
    for (const auto& weak : queues) {
        if (const auto queue = weak.lock()) static_cast<void>(queue->harvest());
    }
}

Status SharedReceiveQueue::do_receive(const core::ReceiveRequest& request,
                                      std::span<const core::LocalBuffer> buffers, std::uint32_t) {
    if (is_full()) harvest();
    const base::Lock lock(mutex_);
    if (queued_ >= depth_ || free_.empty()) return Status::no_more_entries;
    const std::uint32_t slot = free_.back();
    Slot& record = slots_[slot];
    record = {{request.context, request.context_is_object},
              static_cast<std::uint16_t>(buffers.size()),
              true};
    ibv_recv_wr wr{};
    wr.wr_id = WorkId{serial_, true, slot}.pack();
    wr.sg_list = pieces_.data();
    wr.num_sge = store(buffers, pieces_.data(), holds(slot).data());
    if (wr.num_sge == 0 && !parts_->device->quirks().takes_empty_receives) {
        pieces_[0] = hardware_->nothing();
        wr.num_sge = 1;
    }
    ibv_recv_wr* refused = nullptr;
    if (ibv_post_srq_recv(hardware_->get(), &wr, &refused) != 0) {
        record.is_used = false;
        return Status::no_more_entries;
    }
    free_.pop_back();
    // The device begins to watch the threshold when there is something to count down from.
    if (++queued_ == threshold_ && is_armed_) static_cast<void>(hardware_->set_limit(threshold_));
    return Status::success;
}

std::optional<SharedReceiveQueue::Receive> SharedReceiveQueue::take(std::uint32_t slot) {
    Receive out;
    bool is_passed = false;
    {
        const base::Lock lock(mutex_);
        if (slot >= slots_.size() || !slots_[slot].is_used) return std::nullopt;
        out = slots_[slot].receive;
        for (core::BufferHold* const hold : holds(slot)) hold->release();
        slots_[slot] = Slot{};
        --queued_;
        free_.push_back(slot);
        is_passed = queued_ < threshold_ && fires();
    }
    if (is_passed) tell();
    return out;
}

void SharedReceiveQueue::drop(std::uint32_t slot) {
    const auto receive = take(slot);
    if (!receive) return;
    if (receive->context_is_object) contexts()->retire(receive->context);
    receives().end();
}

bool SharedReceiveQueue::fires() { return std::exchange(is_armed_, false); }

void SharedReceiveQueue::handle_limit() {
    bool is_passed = false;
    {
        const base::Lock lock(mutex_);
        is_passed = fires();
    }
    if (is_passed) notify(Status::success);
}

void SharedReceiveQueue::tell() {
    // Null when the last reference is gone.
    if (const auto self = std::static_pointer_cast<SharedReceiveQueue>(weak_from_this().lock())) {
        parts_->progress->set_deadline(self, now());
    }
}

Expected<void> SharedReceiveQueue::do_modify(std::uint32_t depth, std::uint32_t notify_threshold) {
    harvest();
    bool is_below = false;
    {
        const base::Lock lock(mutex_);
        if (depth != 0 && depth < queued_) {
            return fail(Status::buffer_overflow,
                        "modify: " + std::to_string(queued_) +
                            " receives are queued, more than the new depth of " +
                            std::to_string(depth),
                        "the queue is unchanged; let messages take some first");
        }
        if (depth != 0) {
            if (const int os_error = hardware_->set_room(depth); os_error != 0) {
                return verb_failed("modify: the device cannot hold more than " +
                                       std::to_string(hardware_->room()) + " receives: that",
                                   os_error);
            }
            depth_ = depth;
            grow_slots();
        }
        if (notify_threshold != 0) {
            threshold_ = notify_threshold;
            is_below = queued_ < threshold_;
            is_armed_ = !is_below;
            // Own counting is behind by what was not polled yet; the device's is not.
            if (is_armed_) static_cast<void>(hardware_->set_limit(threshold_));
        }
    }
    if (is_below) notify(Status::success);
    return {};
}

}  // namespace ndv::verbs

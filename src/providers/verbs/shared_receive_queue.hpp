// SPDX-License-Identifier: Apache-2.0
// The verbs shared receive queue: the device's, and one record per receive that is posted to it.
// Which queue pair took a receive shows in its completion; a receive that was taken by one that
// broke in the middle of a message comes back with the queue's end only.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/mutex.hpp"
#include "core/shared_receive_queue.hpp"
#include "providers/verbs/abi/functions.hpp"
#include "providers/verbs/own_pages.hpp"
#include "providers/verbs/parts.hpp"

namespace ndv::verbs {

class CompletionQueue;

// The device's queue; outlives every hardware queue pair that takes from it.
class HardwareSharedQueue {
public:
    HardwareSharedQueue(std::shared_ptr<AdapterParts> parts, std::shared_ptr<OwnedDomain> domain)
        : parts_(std::move(parts)), nothing_(std::move(domain)) {}
    HardwareSharedQueue(const HardwareSharedQueue&) = delete;
    HardwareSharedQueue& operator=(const HardwareSharedQueue&) = delete;
    ~HardwareSharedQueue();
    [[nodiscard]] Expected<void> create(std::uint32_t depth, std::uint32_t max_sge);

    [[nodiscard]] ibv_srq* get() const { return srq_; }
    // How many receives it holds at least.
    [[nodiscard]] std::uint32_t room() const { return room_; }
    // 0, or why the device cannot.
    [[nodiscard]] int set_room(std::uint32_t room);
    [[nodiscard]] int set_limit(std::uint32_t limit);
    // Given back when the device cannot touch it.
    void keep(core::BufferHold* hold) { kept_.push_back(hold); }
    // An address that a receive without segments names, with its key, where devices want one.
    [[nodiscard]] ibv_sge nothing() const {
        return {reinterpret_cast<std::uint64_t>(nothing_.data()), 0, nothing_.key()};
    }

private:
    const std::shared_ptr<AdapterParts> parts_;
    ibv_srq* srq_ = nullptr;
    OwnPages nothing_;  // of which no byte is used
    std::uint32_t room_ = 0;
    std::vector<core::BufferHold*> kept_;
};

class SharedReceiveQueue final : public core::SharedReceiveQueue, public Member {
public:
    SharedReceiveQueue(std::shared_ptr<core::ProtectionDomain> pd,
                       std::shared_ptr<AdapterParts> parts,
                       std::shared_ptr<HardwareSharedQueue> hardware,
                       const core::SharedReceiveQueueLimits& limits,
                       core::RequestContexts* contexts, OnNotify on_notify);
    ~SharedReceiveQueue() override;

    [[nodiscard]] const std::shared_ptr<HardwareSharedQueue>& hardware() const { return hardware_; }
    [[nodiscard]] bool waits_for_device() const override { return true; }
    [[nodiscard]] std::uintptr_t raw_handle() const override {
        return reinterpret_cast<std::uintptr_t>(hardware_->get());
    }
    [[nodiscard]] std::uint32_t serial() const { return serial_; }
    // Completions of receives come to this queue, too.
    void attach(std::weak_ptr<CompletionQueue> queue);

    struct Receive {
        std::uint64_t context = 0;
        bool context_is_object = false;
    };
    // A completion has come: the slot is free, its buffers are given back. Nothing: there is no
    // such receive.
    [[nodiscard]] std::optional<Receive> take(std::uint32_t slot);
    // The same for one without a completion.
    void drop(std::uint32_t slot);
    // The device says that the number of receives has dropped below the threshold.
    void handle_limit();
    // The device says that the queue is broken.
    void break_down() { notify(Status::internal_error); }

    // Member: reports the threshold, away from the threads that take completions.
    void on_deadline() override { notify(Status::success); }

private:
    struct Slot {
        Receive receive;
        std::uint16_t segment_count = 0;
        bool is_used = false;
    };

    [[nodiscard]] Status do_receive(const core::ReceiveRequest& request,
                                    std::span<const core::LocalBuffer> buffers,
                                    std::uint32_t length) override;
    [[nodiscard]] Expected<void> do_modify(std::uint32_t depth,
                                           std::uint32_t notify_threshold) override;
    [[nodiscard]] bool is_full() const;
    void harvest();
    void grow_slots() NDV_REQUIRES(mutex_);
    [[nodiscard]] std::span<core::BufferHold*> holds(std::uint32_t slot) NDV_REQUIRES(mutex_);
    // True, once per arming: the threshold is passed.
    [[nodiscard]] bool fires() NDV_REQUIRES(mutex_);
    void tell();

    const std::shared_ptr<AdapterParts> parts_;
    const std::shared_ptr<HardwareSharedQueue> hardware_;
    const std::uint32_t serial_;
    mutable base::Mutex mutex_;
    std::uint32_t depth_ NDV_GUARDED_BY(mutex_);
    std::uint32_t queued_ NDV_GUARDED_BY(mutex_) = 0;
    std::uint32_t threshold_ NDV_GUARDED_BY(mutex_);
    bool is_armed_ NDV_GUARDED_BY(mutex_);
    std::vector<Slot> slots_ NDV_GUARDED_BY(mutex_);
    std::vector<core::BufferHold*> holds_ NDV_GUARDED_BY(mutex_);
    std::vector<std::uint32_t> free_ NDV_GUARDED_BY(mutex_);
    std::vector<ibv_sge> pieces_ NDV_GUARDED_BY(mutex_);
    std::vector<std::weak_ptr<CompletionQueue>> queues_ NDV_GUARDED_BY(mutex_);
};

}  // namespace ndv::verbs

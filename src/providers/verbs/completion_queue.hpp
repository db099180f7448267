// SPDX-License-Identifier: Apache-2.0
// The verbs completion queue: the hardware queue behind core's ring, its interrupts, and the way
// from a hardware completion to the queue pair that posted the request.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <unordered_map>

#include "base/descriptor.hpp"
#include "base/mutex.hpp"
#include "core/completion_queue.hpp"
#include "providers/verbs/abi/functions.hpp"
#include "providers/verbs/parts.hpp"

namespace ndv::verbs {

class HardwareQueuePair;
class QueuePair;
class SharedReceiveQueue;

// Which request a hardware completion belongs to.
struct WorkId {
    // Of the hardware queue pair, or of the shared queue that a receive was taken from.
    std::uint32_t serial = 0;
    bool is_receive = false;
    std::uint32_t position = 0;  // of its queue, 31 bits; slot of a shared one

    static constexpr std::uint32_t kPositionMask = 0x7FFFFFFF;
    static constexpr std::uint32_t kIsShared = 0x80000000;  // in `serial`
    [[nodiscard]] std::uint64_t pack() const {
        return (static_cast<std::uint64_t>(serial) << 32U) |
               (static_cast<std::uint64_t>(is_receive) << 31U) | (position & kPositionMask);
    }
    [[nodiscard]] static WorkId unpack(std::uint64_t id) {
        return {static_cast<std::uint32_t>(id >> 32U), ((id >> 31U) & 1U) != 0,
                static_cast<std::uint32_t>(id) & kPositionMask};
    }
};

// The hardware queue and its interrupt channel; outlives every hardware queue pair that uses it.
class HardwareQueue {
public:
    [[nodiscard]] static Expected<std::shared_ptr<HardwareQueue>> create(
        std::shared_ptr<Device> device, std::uint32_t entries);
    HardwareQueue(std::shared_ptr<Device> device, ibv_comp_channel* channel);
    HardwareQueue(const HardwareQueue&) = delete;
    HardwareQueue& operator=(const HardwareQueue&) = delete;
    ~HardwareQueue();

    [[nodiscard]] ibv_cq* get() const { return cq_; }
    [[nodiscard]] int descriptor() const { return channel_->fd; }
    // Takes the interrupts that came; false when there was none.
    [[nodiscard]] bool take_events();
    // The device was removed: the descriptor has an error for ever, and nothing more to tell.
    // relaxed: nothing else depends on it.
    [[nodiscard]] bool is_at_end() const { return is_at_end_.load(std::memory_order_relaxed); }

private:
    const std::shared_ptr<Device> device_;
    ibv_comp_channel* const channel_;
    ibv_cq* cq_ = nullptr;
    std::atomic<bool> is_at_end_{false};
};

class CompletionQueue final : public core::CompletionQueue, public Member {
public:
    [[nodiscard]] static Expected<std::shared_ptr<core::CompletionQueue>> create(
        std::uint32_t depth, std::shared_ptr<AdapterParts> parts);
    CompletionQueue(std::uint32_t depth, std::shared_ptr<AdapterParts> parts,
                    std::shared_ptr<HardwareQueue> hardware, std::uint32_t entries,
                    base::Descriptor wake);
    ~CompletionQueue() override;

    [[nodiscard]] const std::shared_ptr<HardwareQueue>& hardware() const { return hardware_; }
    [[nodiscard]] bool waits_for_device() const override { return true; }
    [[nodiscard]] std::uintptr_t raw_handle() const override {
        return reinterpret_cast<std::uintptr_t>(hardware_->get());
    }
    [[nodiscard]] const std::shared_ptr<AdapterParts>& parts() const { return parts_; }

    // Its completions are `qp`'s until remove(), and so are those of receives that it takes from
    // the shared queue, if there is one.
    void add(const HardwareQueuePair& hardware, QueuePair& qp,
             const std::shared_ptr<SharedReceiveQueue>& srq);
    void remove(const HardwareQueuePair& hardware);

    // Moves hardware completions into the ring; returns how many there were. Any thread.
    std::size_t harvest();
    // The same, unless another thread is at it.
    void try_harvest() NDV_THREAD_ATTRIBUTE(no_thread_safety_analysis);
    // Held while completions are taken: a queue pair that ends requests by itself holds it, too.
    [[nodiscard]] base::Mutex& harvest_mutex() NDV_THREAD_ATTRIBUTE(lock_returned(mutex_)) {
        return mutex_;
    }
    // After the harvest mutex was let go: notifies of what was pushed under it.
    void tell_owed() {
        // acq_rel: one of the threads that come here notifies. relaxed, as in on_satisfied(): the
        // harvest mutex orders them.
        if (owes_telling_.load(std::memory_order_relaxed) &&
            owes_telling_.exchange(false, std::memory_order_acq_rel)) {
            tell();
        }
    }
    // Before posting: false when the hardware queue might overflow.
    [[nodiscard]] bool make_room(std::uint32_t count);
    // relaxed: see its declaration.
    void note_posted() { outstanding_.fetch_add(1, std::memory_order_relaxed); }
    void note_ended(std::uint32_t count) {
        outstanding_.fetch_sub(count, std::memory_order_relaxed);
    }
    // The device says that the queue is broken.
    void break_down();

    // Member: the interrupt, for an arm without a sleeping thread.
    void on_ready() override;
    void on_deadline() override { notify_if_due(); }
    [[nodiscard]] std::uint32_t wanted() const override;
    [[nodiscard]] core::Lease lease(Time) const override {
        // acquire: pairs with do_wait().
        return waiters_.load(std::memory_order_acquire) > 0 ? core::Lease::held : core::Lease::none;
    }

private:
    [[nodiscard]] bool do_progress(core::Budget) override {
        static_cast<void>(harvest());
        return false;
    }
    void do_wait(std::chrono::nanoseconds timeout) override;
    void sleep_until(Time until);
    void do_arm(core::Notify kind) override;
    [[nodiscard]] Expected<void> do_resize(std::uint32_t depth) override;
    [[nodiscard]] bool has_notify_timer() const override { return true; }
    void set_notify_timer(std::chrono::nanoseconds delay) override;
    void wake() noexcept override;
    void on_satisfied() override {
        owes_telling_.store(true, std::memory_order_relaxed);  // see tell_owed()
    }
    void request_interrupt(core::Notify kind);
    std::size_t harvest_locked() NDV_REQUIRES(mutex_);
    void handle_shared(const WorkId& id, const ibv_wc& done) NDV_REQUIRES(mutex_);

    const std::shared_ptr<AdapterParts> parts_;
    const std::shared_ptr<HardwareQueue> hardware_;
    // relaxed: numbers that are compared; nothing else depends on them.
    std::atomic<std::uint32_t> entries_;  // of the hardware queue
    std::atomic<std::uint32_t> outstanding_{0};
    const base::Descriptor wake_;
    base::Mutex mutex_;
    std::unordered_map<std::uint32_t, QueuePair*> owners_ NDV_GUARDED_BY(mutex_);
    std::unordered_map<std::uint32_t, QueuePair*> sharers_ NDV_GUARDED_BY(mutex_);
    std::unordered_map<std::uint32_t, std::weak_ptr<SharedReceiveQueue>> shared_queues_
        NDV_GUARDED_BY(mutex_);
    std::atomic<bool> owes_telling_{false};
    std::atomic<int> waiters_{0};         // threads that sleep for the interrupt
    std::atomic<bool> is_member_{false};  // of the progress thread's set
};

}  // namespace ndv::verbs

// SPDX-License-Identifier: Apache-2.0
// The completion queue: a ring that connections push into and one consumer polls, the arm state,
// and the descriptor that is readable from the completion that satisfies an arm until the next
// arm, or the callback behind it. Source: NDKPI CQ dispatch.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "base/descriptor.hpp"
#include "base/expected.hpp"
#include "base/live.hpp"
#include "base/mutex.hpp"
#include "base/ring.hpp"
#include "core/object.hpp"
#include "core/progress.hpp"
#include "core/types.hpp"

namespace ndv::core {

class CompletionQueue : public Object, base::Live<base::LiveKind::completion_queue> {
public:
    explicit CompletionQueue(std::uint32_t depth);
    ~CompletionQueue() override;

    [[nodiscard]] std::uint32_t depth() const { return ring_.depth(); }

    // Takes up to `limit` completions, oldest first; when there is none, makes progress and tries
    // once more. The caller ends each one (Completion::requests). `needs_large` is set when a small
    // budget left work behind: call again with a large one (and without the GIL). One consumer at a
    // time. A completion that this call brings and takes out itself satisfies no arm.
    [[nodiscard]] std::size_t poll(Completion* out, std::size_t limit, Budget budget,
                                   bool& needs_large);

    // Sleeps until the queue holds something or the time is over; true when it holds something.
    // Returns early, with false, when a signal came. While it sleeps it serves the connections.
    [[nodiscard]] bool wait(std::chrono::nanoseconds timeout);
    // Ends a wait, or the next one: another thread has taken out what the waiting one is there for.
    void nudge();
    // Since this was asked last.
    [[nodiscard]] bool was_nudged() { return nudged_.exchange(false, std::memory_order_relaxed); }

    // For a loop that sleeps over descriptors, of which watch_descriptor() is one. begin_watch()
    // before it sleeps; true: there is something already. end_watch() when it is back; it may make
    // progress. By one thread; the default is an arm with its descriptor.
    [[nodiscard]] virtual Expected<int> watch_descriptor() { return descriptor(); }
    [[nodiscard]] virtual bool begin_watch() {
        arm(Notify::any);
        return !is_empty() || is_failure(status());
    }
    virtual void end_watch() {}

    // One notification; see Notify. Merges with an arm that is not satisfied yet.
    void arm(Notify kind);
    // The consumer sleeps until it is notified: what its polls kept for it is the progress
    // thread's again.
    virtual void end_lease() {}
    // The descriptor behind arm(); made on first use, and readable when an arm was satisfied
    // before.
    [[nodiscard]] Expected<int> descriptor();
    // Called with status() when an arm is satisfied, from any thread, without locks; the function
    // itself sees to it that calls do not overlap. Set once, before the first arm.
    void set_on_notify(std::function<void(Status)> function);

    // No completion is lost, and queue pairs need not be quiet. BUFFER_OVERFLOW, and nothing
    // changed: more completions are waiting.
    [[nodiscard]] Expected<void> resize(std::uint32_t depth);
    // Lets an arm that is satisfied wait: at most `interval_us`, or until `count` completions
    // wait. Rules as NDK's ControlCqInterruptModeration.
    [[nodiscard]] Expected<void> control_interrupt_moderation(std::uint32_t interval_us,
                                                              std::uint32_t count);

    // success, or buffer_overflow after more than `depth` completions were waiting: the queue and
    // its queue pairs are dead. acquire: pairs with mark_dead().
    [[nodiscard]] Status status() const { return status_.load(std::memory_order_acquire); }
    [[nodiscard]] bool is_empty() const { return ring_.is_empty(); }
    // How many completions can be pushed; only grows while no other thread pushes.
    [[nodiscard]] std::uint32_t room() const { return ring_.room(); }

    // How many requests the queues that complete here may have outstanding: the sum of their
    // depths. NDK allows more than fits.
    void promise(std::uint32_t depth) { promised_.fetch_add(depth, std::memory_order_relaxed); }
    void withdraw(std::uint32_t depth) { promised_.fetch_sub(depth, std::memory_order_relaxed); }
    [[nodiscard]] std::uint64_t promised() const {
        return promised_.load(std::memory_order_relaxed);
    }
    // True once: there is more promised than fits.
    [[nodiscard]] bool should_warn() {
        return promised() > depth() && !has_warned_.exchange(true, std::memory_order_relaxed);
    }

    // Producers: the steppers of connections. False: the queue is dead, by this one or before, and
    // nothing was stored.
    [[nodiscard]] bool push(const Completion& completion) {
        return push(std::span(&completion, 1)) == 1;
    }
    // A run of them. Returns how many were stored: fewer when the queue is dead by then.
    [[nodiscard]] std::size_t push(std::span<const Completion> run);

protected:
    // Steps what may have completions for this queue. True: work is left for a large budget.
    [[nodiscard]] virtual bool do_progress(Budget budget) = 0;
    // Sleeps over the queue's connections, with a Sleeper around each sleep; returns when the
    // queue holds something, the time is over, or a signal came.
    virtual void do_wait(std::chrono::nanoseconds timeout) = 0;
    // After an arm was noted: asks the device for its interrupt, where it has one. `kind` is what
    // the arms since the last notification come to.
    virtual void do_arm(Notify kind) { static_cast<void>(kind); }
    // Optional: makes room for `depth` completions below, where there is something below.
    [[nodiscard]] virtual Expected<void> do_resize(std::uint32_t depth);
    // Optional: calls notify_if_due() after this time; a second call replaces the first.
    // False: the provider has no such timer, and moderation is not supported.
    [[nodiscard]] virtual bool has_notify_timer() const { return false; }
    virtual void set_notify_timer(std::chrono::nanoseconds delay) { static_cast<void>(delay); }
    // From push() and mark_dead(): an arm is satisfied, or the queue is dead. A provider that calls
    // these under locks notes it, and calls tell() without them: its callback may poll at once.
    virtual void on_satisfied() { tell(); }
    void tell();
    // Ends the sleep of each thread that has a Sleeper: another one pushed.
    virtual void wake() noexcept = 0;
    // There is no reason to sleep, or to go on sleeping.
    [[nodiscard]] bool is_wait_over() const {
        return !is_empty() || is_failure(status()) || nudged_.load(std::memory_order_relaxed);
    }

    // acq_rel: pairs with push(); it sees a sleeper, or we its completion.
    void begin_sleep() { attention_.fetch_add(kSleeper, std::memory_order_acq_rel); }
    void end_sleep() { attention_.fetch_sub(kSleeper, std::memory_order_relaxed); }
    // Announces a sleep to push(). Check is_wait_over() after making one and before sleeping.
    class Sleeper {
    public:
        explicit Sleeper(CompletionQueue& cq) : cq_(cq) { cq_.begin_sleep(); }
        ~Sleeper() { cq_.end_sleep(); }
        Sleeper(const Sleeper&) = delete;
        Sleeper& operator=(const Sleeper&) = delete;

    private:
        CompletionQueue& cq_;
    };
    // A sleep and its wake-up cost more than a moment's waiting, so a wait that follows a short
    // sleep begins with that: in a ping-pong, and in a stream that is never idle for long. Calls
    // `look` until the queue holds something; true: it does.
    template <typename Look>
    [[nodiscard]] bool spin(const Look& look) {
        const Time length = spin_time();
        if (length == Time::zero()) return false;
        const Time until = now() + length;
        do {
            look();
            if (!is_empty()) {
                vain_spins_.store(0, std::memory_order_relaxed);
                return true;
            }
        } while (now() < until);
        return false;
    }
    void note_sleep(Time length) { last_sleep_.store(length, std::memory_order_relaxed); }
    void do_close() override {}

    // What is asked for and not satisfied yet.
    [[nodiscard]] std::optional<Notify> armed() const;
    // Since this was asked last.
    [[nodiscard]] bool was_polled() {
        return was_polled_.exchange(false, std::memory_order_relaxed);
    }
    // Satisfies an arm, if there is one.
    void notify();
    // The same, if moderation holds one back that is satisfied.
    void notify_if_due();
    // The queue is dead: wakes every waiter and satisfies the arm.
    void mark_dead(Status status);

private:
    // How long a spin may be now; 0: it is better to sleep.
    [[nodiscard]] Time spin_time();
    // An arm is satisfied: notifies now, or when moderation says so.
    void satisfy();

    base::MpscRing<Completion> ring_;
    std::atomic<Status> status_{Status::success};
    // Who wants to hear of a completion, in one word, because each push() looks. The low bits: 0:
    // not armed, otherwise 1 + strength (errors 0, solicited 1, any 2), changed under the mutex.
    // Above them: how many threads sleep.
    static constexpr std::uint32_t kArmed = 3;
    static constexpr std::uint32_t kSleeper = 4;
    std::atomic<std::uint32_t> attention_{0};
    std::atomic<std::uint64_t> promised_{0};
    std::atomic<bool> has_warned_{false};
    std::atomic<bool> was_polled_{false};
    std::atomic<bool> nudged_{false};            // ordered by attention_, as completions are
    std::atomic<Time> last_sleep_{Time::max()};  // how long it was
    std::atomic<std::uint32_t> vain_spins_{0};   // since one found something
    bool owes_large_ = false;                    // the consumer's
    bool holds_back_ = false;  // the consumer's: its own poll pushed what satisfies the arm
    base::Mutex mutex_;
    base::Descriptor event_ NDV_GUARDED_BY(mutex_);  // eventfd
    // From a satisfied arm to the next arm, with a descriptor or without.
    bool is_signalled_ NDV_GUARDED_BY(mutex_) = false;
    std::shared_ptr<const std::function<void(Status)>> on_notify_ NDV_GUARDED_BY(mutex_);
    base::Mutex resize_mutex_;
    // Moderation: interval in the high half, count in the low half; 0: none. Written under the
    // mutex, together with a look at is_due_.
    std::atomic<std::uint64_t> moderation_{0};
    // Satisfied, and held back by moderation.
    bool is_due_ NDV_GUARDED_BY(mutex_) = false;
};

}  // namespace ndv::core

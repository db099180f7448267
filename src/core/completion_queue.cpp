// SPDX-License-Identifier: Apache-2.0
// Polling, arming and the overrun rule of the completion queue.
#include "core/completion_queue.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <string>
#include <utility>

#include "base/thread_local.hpp"
#include "core/outstanding.hpp"

namespace ndv::core {
namespace {

// NDK's strength order: an arm only ever grows until it is satisfied.
std::uint32_t strength(Notify kind) {
    switch (kind) {
        case Notify::errors:
            return 1;
        case Notify::solicited:
            return 2;
        case Notify::any:
            return 3;
    }
    return 3;
}

// NDK's MAXULONG: no limit of this kind.
constexpr std::uint32_t kUnlimited = 0xFFFFFFFF;

// The queue whose poll() makes progress on this thread right now.
NDV_THREAD_LOCAL const void* polled_here = nullptr;

// A step may call streams, which poll queues of their own.
class PolledHere {
public:
    explicit PolledHere(const void* queue) : before_(std::exchange(polled_here, queue)) {}
    PolledHere(const PolledHere&) = delete;
    PolledHere& operator=(const PolledHere&) = delete;
    ~PolledHere() { polled_here = before_; }

private:
    const void* const before_;
};

Notify kind_of(std::uint32_t strength) {
    return strength == 1 ? Notify::errors : strength == 2 ? Notify::solicited : Notify::any;
}

}  // namespace

CompletionQueue::CompletionQueue(std::uint32_t depth) : ring_(depth) {}

CompletionQueue::~CompletionQueue() {
    if (is_foreign()) return;
    Completion completion;
    while (ring_.pop(completion)) discard(completion);
}

std::size_t CompletionQueue::poll(Completion* out, std::size_t limit, Budget budget,
                                  bool& needs_large) {
    needs_large = false;
    was_polled_.store(true, std::memory_order_relaxed);
    std::size_t count = 0;
    while (count < limit && ring_.pop(out[count])) ++count;
    if (count > 0 || limit == 0) return count;
    if (budget == Budget::small && owes_large_) {
        needs_large = true;
        return 0;
    }
    {
        const PolledHere here(this);
        needs_large = do_progress(budget);
    }
    while (count < limit && ring_.pop(out[count])) ++count;
    // The caller has what it brought itself: only what stays behind is worth a notification.
    // What stays may be behind a completion that another thread is still writing.
    if (std::exchange(holds_back_, false) && ring_.size() != 0) tell();
    // A caller with results in hand goes its way: the large step is due at the next call, or small
    // traffic would hold a large backlog back for as long as it lasts.
    owes_large_ = needs_large && count > 0;
    return count;
}

bool CompletionQueue::wait(std::chrono::nanoseconds timeout) {
    if (!is_wait_over()) do_wait(timeout);
    return !is_empty() || is_failure(status());
}

void CompletionQueue::nudge() {
    nudged_.store(true, std::memory_order_relaxed);
    // As in push(): either we see the sleeper, or it sees the word before it sleeps.
    if (attention_.fetch_add(0, std::memory_order_acq_rel) >= kSleeper) wake();
}

// A spin as long as the sleep that it may save costs at most twice what the better choice would.
// On one processor with the peer, spinning only keeps the peer from running: after a few in vain it
// is tried now and then.
Time CompletionQueue::spin_time() {
    constexpr Time kShortest = std::chrono::microseconds(20);
    constexpr Time kLongest = std::chrono::microseconds(200);
    constexpr std::uint32_t kVainSpins = 4;
    constexpr std::uint32_t kSpinTrial = 64;
    const Time sleep = last_sleep_.load(std::memory_order_relaxed);
    if (sleep > 2 * kLongest) return Time::zero();
    const std::uint32_t vain = vain_spins_.fetch_add(1, std::memory_order_relaxed);
    const bool is_worth = vain < kVainSpins || vain % kSpinTrial == 0;
    return is_worth ? std::min(std::max(sleep, kShortest), kLongest) : Time::zero();
}

std::size_t CompletionQueue::push(std::span<const Completion> run) {
    // A dead queue stays as it is, although polling makes room in it.
    if (is_failure(status_.load(std::memory_order_relaxed))) [[unlikely]]
        return 0;
    const std::size_t count = ring_.push(run);
    if (count < run.size()) [[unlikely]] {
        mark_dead(Status::buffer_overflow);
        return count;
    }
    // A read-modify-write, so that it is ordered with those of arm() and Sleeper: either we see the
    // arm or the sleeper, or it sees the completions. acq_rel: pairs with those two.
    const std::uint32_t attention = attention_.fetch_add(0, std::memory_order_acq_rel);
    if (attention == 0) [[likely]]
        return count;
    const std::uint32_t armed = attention & kArmed;
    const bool matches = armed == strength(Notify::any) ||
                         (armed == strength(Notify::solicited) &&
                          std::ranges::any_of(run, [](const Completion& completion) {
                              return completion.is_solicited || is_failure(completion.status);
                          }));
    if (matches && polled_here == this) {
        holds_back_ = true;
    } else if (matches) {
        on_satisfied();
    }
    if (attention >= kSleeper) wake();
    return count;
}

void CompletionQueue::mark_dead(Status status) {
    status_.store(status, std::memory_order_release);  // pairs with status()
    on_satisfied();
    // As in push(): either we see the sleeper, or it sees the status.
    if (attention_.fetch_add(0, std::memory_order_acq_rel) >= kSleeper) wake();
}

void CompletionQueue::tell() {
    if (is_failure(status())) {
        notify();
    } else {
        satisfy();
    }
}

void CompletionQueue::satisfy() {
    // relaxed: a look that is too early notifies at once, which is never wrong.
    std::uint64_t moderation = moderation_.load(std::memory_order_relaxed);
    if (moderation != 0) [[unlikely]] {
        const base::Lock lock(mutex_);
        // Again, because a thread that changes it under the lock looks at is_due_ as well.
        moderation = moderation_.load(std::memory_order_relaxed);
        const auto count = static_cast<std::uint32_t>(moderation);
        if (moderation != 0 && (count == kUnlimited || ring_.size() < count)) {
            if (std::exchange(is_due_, true)) return;  // and its timer runs
        } else {
            moderation = 0;
        }
    }
    if (moderation == 0) {
        notify();
        return;
    }
    const auto interval = static_cast<std::uint32_t>(moderation >> 32U);
    if (interval == kUnlimited) return;  // the count alone decides
    try {
        set_notify_timer(std::chrono::microseconds(interval));
    } catch (const std::bad_alloc&) {
        notify();  // too early is never wrong
    }
}

void CompletionQueue::notify() {
    std::shared_ptr<const std::function<void(Status)>> tell;
    {
        const base::Lock lock(mutex_);
        is_due_ = false;  // its timer finds that, or the next one that is due
        // acq_rel: pairs with arm() and push().
        if ((attention_.fetch_and(~kArmed, std::memory_order_acq_rel) & kArmed) == 0) return;
        tell = on_notify_;
        const std::uint64_t one = 1;
        // An eventfd of ours takes a one unless it overflows, and it is drained at every arm.
        if (!std::exchange(is_signalled_, true) && event_) {
            static_cast<void>(!::write(event_.get(), &one, sizeof one));
        }
    }
    if (tell) (*tell)(status());
}

void CompletionQueue::set_on_notify(std::function<void(Status)> function) {
    const base::Lock lock(mutex_);
    on_notify_ = std::make_shared<const std::function<void(Status)>>(std::move(function));
}

Expected<void> CompletionQueue::resize(std::uint32_t depth) {
    const base::Lock lock(resize_mutex_);
    if (depth == 0) {
        return fail(Status::invalid_parameter, "resize: a completion queue holds at least one");
    }
    const auto too_small = [&] {
        return fail(Status::buffer_overflow,
                    "resize: " + std::to_string(ring_.size()) +
                        " completions are waiting, more than the new depth of " +
                        std::to_string(depth),
                    "poll first; the queue is unchanged");
    };
    if (ring_.size() > depth) return too_small();
    if (auto below = do_resize(depth); !below) return below;
    if (!ring_.resize(depth)) return too_small();
    return {};
}

Expected<void> CompletionQueue::do_resize(std::uint32_t) {
    return fail(Status::not_supported, "resize: the adapter cannot do it",
                "adapter.info.adapter_flags tells");
}

Expected<void> CompletionQueue::control_interrupt_moderation(std::uint32_t interval_us,
                                                             std::uint32_t count) {
    if (!has_notify_timer()) {
        return fail(Status::not_supported, "control_interrupt_moderation: the adapter cannot do it",
                    "adapter.info.adapter_flags tells");
    }
    // NDK: no interval, or a count of 0 or 1, is no moderation, whatever the other says.
    const bool is_none = interval_us == 0 || count <= 1;
    const std::uint32_t most = count > depth() ? kUnlimited : count;
    if (!is_none && interval_us == kUnlimited && most == kUnlimited) {
        return fail(Status::invalid_parameter_mix,
                    "control_interrupt_moderation: without a limit on time or on number nobody "
                    "would ever be notified",
                    "give one of the two a limit; a count above the depth is none");
    }
    {
        const base::Lock lock(mutex_);
        moderation_.store(is_none ? 0 : (static_cast<std::uint64_t>(interval_us) << 32U) | most,
                          std::memory_order_relaxed);
    }
    // A notification held back by the old rules goes out now, which is never too late.
    notify_if_due();
    return {};
}

void CompletionQueue::notify_if_due() {
    bool is_due = false;
    {
        const base::Lock lock(mutex_);
        is_due = is_due_;
    }
    if (is_due) notify();
}

std::optional<Notify> CompletionQueue::armed() const {
    // acquire: pairs with arm().
    const std::uint32_t strength = attention_.load(std::memory_order_acquire) & kArmed;
    return strength == 0 ? std::nullopt : std::optional(kind_of(strength));
}

void CompletionQueue::arm(Notify kind) {
    std::uint32_t merged = 0;
    {
        const base::Lock lock(mutex_);
        if (std::exchange(is_signalled_, false) && event_) {
            std::uint64_t count = 0;
            static_cast<void>(!::read(event_.get(), &count, sizeof count));
        }
        // acq_rel, and always written: pairs with push().
        const std::uint32_t before = attention_.load(std::memory_order_relaxed) & kArmed;
        merged = std::max(strength(kind), before);
        attention_.fetch_add(merged - before, std::memory_order_acq_rel);
    }
    do_arm(kind_of(merged));
    // What waits already satisfies the arm: NDK demands it for anything new since the last
    // notification and allows it for the rest. It may be behind a completion that another thread
    // is still writing, which the arm may not be for.
    if (is_failure(status())) {
        notify();
    } else if (ring_.size() != 0 && kind != Notify::errors) {
        satisfy();
    }
}

Expected<int> CompletionQueue::descriptor() {
    const base::Lock lock(mutex_);
    if (!event_) {
        base::Descriptor made(::eventfd(is_signalled_ ? 1 : 0, EFD_CLOEXEC | EFD_NONBLOCK));
        if (!made) {
            return fail(Status::insufficient_resources, "fileno: eventfd failed",
                        "raise the limit on open files (ulimit -n)", errno);
        }
        event_ = std::move(made);
    }
    return event_.get();
}

}  // namespace ndv::core

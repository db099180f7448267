// SPDX-License-Identifier: Apache-2.0
// Polling, arming and the overrun rule of the completion queue.
#include "core/completion_queue.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

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

Notify kind_of(std::uint32_t strength) {
    return strength == 1 ? Notify::errors : strength == 2 ? Notify::solicited : Notify::any;
}

}  // namespace

CompletionQueue::CompletionQueue(std::uint32_t depth) : ring_(depth) {}

CompletionQueue::~CompletionQueue() {
    if (is_foreign()) return;
    Completion completion;
    while (ring_.pop(completion)) {
        if (completion.contexts == nullptr) continue;
        if (completion.context_is_object) completion.contexts->retire(completion.context);
        completion.contexts->release();
    }
}

std::size_t CompletionQueue::poll(Completion* out, std::size_t limit, Budget budget,
                                  bool& needs_large) {
    needs_large = false;
    std::size_t count = 0;
    while (count < limit && ring_.pop(out[count])) ++count;
    if (count > 0 || limit == 0) return count;
    if (budget == Budget::small && owes_large_) {
        needs_large = true;
        return 0;
    }
    needs_large = do_progress(budget);
    while (count < limit && ring_.pop(out[count])) ++count;
    // A caller with results in hand goes its way: the large step is due at the next call, or small
    // traffic would hold a large backlog back for as long as it lasts.
    owes_large_ = needs_large && count > 0;
    return count;
}

bool CompletionQueue::wait(std::chrono::nanoseconds timeout) {
    if (is_empty() && !is_failure(status())) do_wait(timeout);
    return !is_empty() || is_failure(status());
}

bool CompletionQueue::push(const Completion& completion) {
    if (!ring_.push(completion)) {
        mark_dead(Status::buffer_overflow);
        return false;
    }
    // Read-modify-writes, so that they are ordered with the ones of arm() and Sleeper: either we
    // see the arm or the sleeper, or it sees the completion. acq_rel: pairs with those two.
    const std::uint32_t armed = armed_.fetch_add(0, std::memory_order_acq_rel);
    if (armed != 0) {
        const bool matches = armed == strength(Notify::any) ||
                             (armed == strength(Notify::solicited) &&
                              (completion.is_solicited || is_failure(completion.status)));
        if (matches) notify();
    }
    if (sleepers_.fetch_add(0, std::memory_order_acq_rel) > 0) wake();
    return true;
}

void CompletionQueue::mark_dead(Status status) {
    status_.store(status, std::memory_order_release);
    notify();
    if (sleepers_.load(std::memory_order_acquire) > 0) wake();
}

void CompletionQueue::notify() {
    const base::Lock lock(mutex_);
    if (armed_.exchange(0, std::memory_order_acq_rel) == 0) return;
    if (!event_ || is_signalled_) return;
    const std::uint64_t one = 1;
    // An eventfd of ours takes a one unless it overflows, and it is drained at every arm.
    if (::write(event_.get(), &one, sizeof one) == sizeof one) is_signalled_ = true;
}

std::optional<Notify> CompletionQueue::armed() const {
    const std::uint32_t strength = armed_.load(std::memory_order_acquire);
    return strength == 0 ? std::nullopt : std::optional(kind_of(strength));
}

void CompletionQueue::arm(Notify kind) {
    std::uint32_t merged = 0;
    {
        const base::Lock lock(mutex_);
        if (is_signalled_) {
            std::uint64_t count = 0;
            if (::read(event_.get(), &count, sizeof count) == sizeof count) is_signalled_ = false;
        }
        // acq_rel, and always written: pairs with push().
        merged = std::max(strength(kind), armed_.load(std::memory_order_relaxed));
        armed_.exchange(merged, std::memory_order_acq_rel);
    }
    do_arm(kind_of(merged));
    // What waits already satisfies the arm: NDK demands it for anything new since the last
    // notification and allows it for the rest.
    if ((!is_empty() && kind != Notify::errors) || is_failure(status())) notify();
}

Expected<int> CompletionQueue::descriptor() {
    const base::Lock lock(mutex_);
    if (!event_) {
        base::Descriptor made(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        if (!made) {
            return fail(Status::insufficient_resources, "fileno: eventfd failed",
                        "raise the limit on open files (ulimit -n)", errno);
        }
        event_ = std::move(made);
    }
    return event_.get();
}

}  // namespace ndv::core

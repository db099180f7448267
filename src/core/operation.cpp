// SPDX-License-Identifier: Apache-2.0
// Completing an operation once, and telling of it.
#include "core/operation.hpp"

#include <utility>

namespace ndv::core {

bool Operation::wait(std::chrono::nanoseconds timeout) {
    base::UniqueLock lock(mutex_);
    // A loop instead of a predicate: the analysis cannot look into lambdas.
    const auto until = std::chrono::steady_clock::now() + timeout;
    while (!is_done_) {
        if (done_.wait_until(lock.native(), until) == std::cv_status::timeout) break;
    }
    return is_done_;
}

bool Operation::is_done() const {
    const base::Lock lock(mutex_);
    return is_done_;
}

Expected<void> Operation::outcome() const {
    const base::Lock lock(mutex_);
    return outcome_;
}

void Operation::set_on_done(std::function<void()> function) {
    {
        const base::Lock lock(mutex_);
        if (!is_done_) {
            on_done_ = std::move(function);
            return;
        }
    }
    function();
}

void Operation::complete(Expected<void> outcome) {
    std::function<void()> on_done;
    {
        const base::Lock lock(mutex_);
        if (is_done_) return;
        is_done_ = true;
        outcome_ = std::move(outcome);
        on_done = std::move(on_done_);
        done_.notify_all();
    }
    if (on_done) on_done();
}

}  // namespace ndv::core

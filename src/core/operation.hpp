// SPDX-License-Identifier: Apache-2.0
// Calls that wait for a peer.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>

#include "base/expected.hpp"
#include "base/live.hpp"
#include "base/mutex.hpp"

namespace ndv::core {

// A call that waits for a peer. Completed once, from any thread.
class Operation : base::Live<base::LiveKind::operation> {
public:
    // False: the time is over, the operation goes on.
    [[nodiscard]] bool wait(std::chrono::nanoseconds timeout);
    [[nodiscard]] bool is_done() const;
    // After is_done(): the outcome.
    [[nodiscard]] Expected<void> outcome() const;
    // Runs once when done, at once if it is; on the thread that completes. One at most.
    void set_on_done(std::function<void()> function);
    void complete(Expected<void> outcome);

private:
    mutable base::Mutex mutex_;
    std::condition_variable done_;
    bool is_done_ NDV_GUARDED_BY(mutex_) = false;
    Expected<void> outcome_ NDV_GUARDED_BY(mutex_);
    std::function<void()> on_done_ NDV_GUARDED_BY(mutex_);
};

using Pending = Expected<std::shared_ptr<Operation>>;

}  // namespace ndv::core

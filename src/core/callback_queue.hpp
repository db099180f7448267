// SPDX-License-Identifier: Apache-2.0
// The queue in front of an adapter's callback thread, which the binding runs.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>

#include "base/mutex.hpp"

namespace ndv::core {

// Tasks for the adapter's callback thread: one at a time, in order.
class CallbackQueue {
public:
    using Task = std::function<void()>;
    void push(Task task);
    // Blocks; an empty task when stop() was called and nothing is left.
    [[nodiscard]] Task pop();
    // The task that pop() returned has ended.
    void done();
    // Returns when the queue is empty and no task runs; wakes pop() for good.
    void stop(bool is_callback_thread);

private:
    base::Mutex mutex_;
    std::condition_variable changed_;
    std::deque<Task> tasks_ NDV_GUARDED_BY(mutex_);
    bool is_stopped_ NDV_GUARDED_BY(mutex_) = false;
    bool is_running_ NDV_GUARDED_BY(mutex_) = false;
};

}  // namespace ndv::core

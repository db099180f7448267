// SPDX-License-Identifier: Apache-2.0
// Waiting for tasks, and for the last of them.
#include "core/callback_queue.hpp"

#include <utility>

namespace ndv::core {

void CallbackQueue::push(Task task) {
    const base::Lock lock(mutex_);
    if (is_stopped_) return;
    tasks_.push_back(std::move(task));
    changed_.notify_all();
}

CallbackQueue::Task CallbackQueue::pop() {
    base::UniqueLock lock(mutex_);
    while (tasks_.empty() && !is_stopped_) changed_.wait(lock.native());
    if (tasks_.empty()) return {};
    Task task = std::move(tasks_.front());
    tasks_.pop_front();
    is_running_ = true;
    return task;
}

void CallbackQueue::done() {
    const base::Lock lock(mutex_);
    is_running_ = false;
    changed_.notify_all();
}

void CallbackQueue::stop(bool is_callback_thread) {
    base::UniqueLock lock(mutex_);
    is_stopped_ = true;
    changed_.notify_all();
    while (!is_callback_thread && (is_running_ || !tasks_.empty())) {
        changed_.wait(lock.native());
    }
}

}  // namespace ndv::core

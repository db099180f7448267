// SPDX-License-Identifier: Apache-2.0
// The loop of the worker.
#include "stream/worker.hpp"

#include <pthread.h>

#include <memory>
#include <new>
#include <system_error>

#include "base/shortage.hpp"
#include "base/signals.hpp"

namespace ndv::stream {
Worker::~Worker() {
    if (fork_generation_ != base::fork_generation()) {
        // The thread is the parent's: never joined here.
        static_cast<void>(std::make_unique<std::thread>(std::move(thread_)).release());
        return;
    }
    stop();
}

Expected<void> Worker::start() {
    const base::Lock lock(mutex_);
    if (is_stopped_ || thread_.joinable()) return {};
    const base::BlockedSignals blocked;
    try {
        thread_ = std::thread([this] { run(); });
    } catch (const std::system_error& error) {
        return fail(Status::insufficient_resources,
                    "the thread that serves the adapter's stream sockets did not start",
                    "raise the limit on processes (ulimit -u, or that of the container)",
                    error.code().value());
    }
    return {};
}

void Worker::post_at(Clock::time_point at, Task task) {
    const base::Lock lock(mutex_);
    if (is_stopped_) return;
    tasks_.emplace(at, std::move(task));
    changed_.notify_one();
}

Worker::Prepared Worker::prepare(Task task) {
    Tasks one;
    return one.extract(one.emplace(Clock::time_point::min(), std::move(task)));
}

void Worker::post(Prepared task) {
    const base::Lock lock(mutex_);
    if (is_stopped_ || task.empty()) return;
    tasks_.insert(std::move(task));
    changed_.notify_one();
}

void Worker::keep(const std::shared_ptr<core::Object>& stream) {
    const base::Lock lock(mutex_);
    if (is_stopped_) return;
    kept_.emplace(stream.get(), stream);
}

void Worker::let_go(const core::Object& stream) {
    std::shared_ptr<core::Object> gone;  // its end may call back: without the lock
    const base::Lock lock(mutex_);
    const auto found = kept_.find(&stream);
    if (found == kept_.end()) return;
    gone = std::move(found->second);
    kept_.erase(found);
    if (kept_.empty()) let_go_.notify_all();
}

void Worker::add(const std::shared_ptr<core::Object>& stream) {
    const base::Lock lock(mutex_);
    pruning_.prune(added_, [](const auto& weak) { return weak.expired(); });
    added_.push_back(stream);
}

void Worker::end(std::chrono::nanoseconds linger) {
    std::vector<std::weak_ptr<core::Object>> added;
    {
        const base::Lock lock(mutex_);
        added.swap(added_);
    }
    for (const auto& weak : added) {
        if (const auto stream = weak.lock()) stream->close();
    }
    {
        base::UniqueLock lock(mutex_);
        const auto until = Clock::now() + linger;
        while (!kept_.empty()) {
            if (let_go_.wait_until(lock.native(), until) == std::cv_status::timeout) break;
        }
    }
    stop();
}

void Worker::stop() {
    std::thread thread;
    Tasks dropped;
    std::map<const core::Object*, std::shared_ptr<core::Object>> kept;
    {
        const base::Lock lock(mutex_);
        is_stopped_ = true;
        thread = std::move(thread_);
        dropped.swap(tasks_);
        kept.swap(kept_);
        changed_.notify_all();
    }
    if (!thread.joinable()) return;
    if (thread.get_id() == std::this_thread::get_id()) {
        thread.detach();
    } else {
        thread.join();
    }
}

void Worker::run() {
    base::prepare_thread();
    pthread_setname_np(pthread_self(), "ndverbs streams");
    while (true) {
        Prepared task;
        {
            base::UniqueLock lock(mutex_);
            while (true) {
                if (is_stopped_) return;
                if (tasks_.empty()) {
                    changed_.wait(lock.native());
                } else if (const auto first = tasks_.begin(); first->first <= Clock::now()) {
                    task = tasks_.extract(first);
                    break;
                } else {
                    changed_.wait_until(lock.native(), first->first);
                }
            }
        }
        try {
            task.mapped()();
        } catch (const std::bad_alloc&) {
            task.key() = Clock::now() + base::kMemoryPause;
            post(std::move(task));
        }
    }
}

}  // namespace ndv::stream

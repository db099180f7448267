// SPDX-License-Identifier: Apache-2.0
// Threads with signals blocked: those belong to Python's.
#include "providers/verbs/worker.hpp"

#include <pthread.h>

#include <future>
#include <system_error>
#include <utility>

#include "base/signals.hpp"

namespace ndv::verbs {
namespace {

// Not joinable when no thread could be started.
std::thread start_thread(std::function<void()> body) {
    const base::BlockedSignals blocked;
    std::thread thread;
    try {
        thread = std::thread(std::move(body));
        pthread_setname_np(thread.native_handle(), "ndverbs-cm");
    } catch (const std::system_error&) {
        // The caller runs it itself.
    }
    return thread;
}

}  // namespace

void Worker::run(std::function<void()> task) {
    {
        const base::Lock lock(mutex_);
        if (!is_stopped_ && !thread_.joinable()) {
            thread_ = start_thread([this] {
                while (core::CallbackQueue::Task next = tasks_.pop()) {
                    next();
                    next = nullptr;  // what it held goes before anybody is told
                    tasks_.done();
                }
            });
        }
        if (!is_stopped_ && thread_.joinable()) {
            tasks_.push(std::move(task));
            return;
        }
    }
    task();
}

void Worker::drain() {
    std::promise<void> reached;
    run([&reached] { reached.set_value(); });
    reached.get_future().wait();
}

void Worker::run_detached(std::function<void()> task) {
    // Both a copy: the thread may fail to start.
    std::thread thread = start_thread(task);
    if (thread.joinable()) {
        thread.detach();
    } else {
        task();
    }
}

void Worker::stop() {
    std::thread thread;
    {
        const base::Lock lock(mutex_);
        is_stopped_ = true;
        thread = std::move(thread_);
    }
    if (!thread.joinable()) return;
    tasks_.stop(false);
    thread.join();
}

}  // namespace ndv::verbs

// SPDX-License-Identifier: Apache-2.0
// Threads with signals blocked: those belong to Python's.
#include "providers/verbs/worker.hpp"

#include <pthread.h>

#include <cerrno>
#include <future>
#include <system_error>
#include <utility>

#include "base/shortage.hpp"
#include "base/signals.hpp"

namespace ndv::verbs {
namespace {

// Not joinable when no thread could be started.
std::thread start_thread(std::function<void()> body) {
    const base::BlockedSignals blocked;
    std::thread thread;
    try {
        thread = std::thread([body = std::move(body)] {
            base::prepare_thread();
            body();
        });
        pthread_setname_np(thread.native_handle(), "ndverbs-cm");
    } catch (const std::system_error&) {
        // The caller knows what to do without.
    }
    return thread;
}

Unexpected no_thread() {
    return fail(Status::insufficient_resources,
                "no thread for calls that wait in the kernel's RDMA connection manager",
                "raise the limit on processes (ulimit -u, or that of the container)", EAGAIN);
}

}  // namespace

bool Worker::has_thread() {
    if (is_stopped_) return false;
    if (!thread_.joinable()) {
        thread_ = start_thread([this] {
            while (core::CallbackQueue::Task next = tasks_.pop()) {
                next();
                next = nullptr;  // what it held goes before a waiter is woken
                tasks_.done();
            }
        });
    }
    return thread_.joinable();
}

Expected<void> Worker::start() {
    const base::Lock lock(mutex_);
    if (is_stopped_ || has_thread()) return {};
    return no_thread();
}

void Worker::run(std::function<void()> task) {
    {
        const base::Lock lock(mutex_);
        if (has_thread()) {
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

Expected<void> Worker::run_detached(std::function<void()> task) {
    std::thread thread = start_thread(std::move(task));
    if (!thread.joinable()) return no_thread();
    thread.detach();
    return {};
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

// SPDX-License-Identifier: Apache-2.0
// A thread for calls that may block inside the kernel (rdma_destroy_id, ibv_destroy_qp, and
// rdma_connect on iWARP): never on the progress thread, never with the GIL.
#pragma once

#include <functional>
#include <thread>

#include "base/expected.hpp"
#include "base/mutex.hpp"
#include "core/adapter.hpp"

namespace ndv::verbs {

class Worker {
public:
    Worker() = default;
    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;
    ~Worker() { stop(); }

    // Starts the thread, unless it runs. An error: there is none to be had.
    [[nodiscard]] Expected<void> start();
    // In order, on one thread; on the caller's after stop(), or when no thread can be had.
    void run(std::function<void()> task);
    // On a thread of its own that is not waited for; what it needs, the task must hold. An error:
    // there is no thread to be had, and the task does not run.
    [[nodiscard]] static Expected<void> run_detached(std::function<void()> task);
    // Returns when what was asked for so far has run.
    void drain();
    // Returns when everything has run.
    void stop();

private:
    [[nodiscard]] bool has_thread() NDV_REQUIRES(mutex_);

    base::Mutex mutex_;
    std::thread thread_ NDV_GUARDED_BY(mutex_);
    bool is_stopped_ NDV_GUARDED_BY(mutex_) = false;
    core::CallbackQueue tasks_;
};

}  // namespace ndv::verbs

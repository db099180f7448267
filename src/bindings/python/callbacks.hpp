// SPDX-License-Identifier: Apache-2.0
// The callback thread: one Python daemon thread per adapter that runs the tasks of its
// CallbackQueue one at a time, in order, with the GIL and no lock of ours held.
#pragma once

#include <pybind11/pybind11.h>

#include <atomic>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "base/shortage.hpp"
#include "bindings/python/deferred.hpp"
#include "core/adapter.hpp"

namespace ndv::bindings {

namespace py = pybind11;

class CallbackLoop : public std::enable_shared_from_this<CallbackLoop> {
public:
    // With the GIL. Starts the thread unless it was started before.
    void start(std::shared_ptr<core::Adapter> adapter);
    [[nodiscard]] bool is_this_thread() const;
    // Of any adapter's callback thread.
    [[nodiscard]] static bool is_any_on_this_thread();
    // Without the GIL, after CallbackQueue::stop(): returns when the thread will touch nothing
    // of the adapter any more.
    void wait_until_ended() const { is_running_.wait(true, std::memory_order_acquire); }
    // On the callback thread, for the adapter whose last reference went in a task: the thread
    // closes it when the task is done, and calls `then` at its end.
    void close_after_task(std::function<void()> then) { then_ = std::move(then); }

private:
    void run(std::shared_ptr<core::Adapter> adapter, unsigned attempt);
    void set_running(bool is_running);

    // Guarded by the GIL.
    bool has_begun_ = false;                 // one thread is in run(); others end at once
    unsigned attempts_ = 0;                  // to start it
    std::vector<unsigned> hopes_;            // those whose thread may still come
    std::function<void()> then_;             // the thread's own
    std::atomic<std::thread::id> thread_{};  // relaxed: a thread looks for itself alone
    // release: what the thread did before it ended comes before wait_until_ended(), which acquires.
    std::atomic<bool> is_running_{false};
};

// Queues `task` for the adapter's callback thread, where it runs with the GIL; from any thread.
// Nothing happens when the adapter is gone. Where there is no memory it waits for some, because
// no later call makes up for a task that is lost here.
template <typename Task>
void queue_callback(const std::weak_ptr<core::Adapter>& adapter, const Task& task) {
    if (const auto alive = adapter.lock()) {
        base::with_memory([&] { alive->callbacks().push(task); });
    }
}

// Calls `function`, unless it is null, with the argument, unless it is null; with the GIL held. An
// exception goes to sys.unraisablehook.
void call_and_report(const py::object& function, const py::object& argument = {}) noexcept;
// The exception that is being handled, to sys.unraisablehook.
void report_exception(const char* where) noexcept;

// What queues a call of `function` with the object that `convert` makes, on the callback thread, of
// what it was called with itself.
template <typename Convert>
[[nodiscard]] auto queued(std::weak_ptr<core::Adapter> adapter,
                          std::shared_ptr<SharedObject> function, Convert convert) {
    return [adapter = std::move(adapter), function = std::move(function), convert](auto... given) {
        queue_callback(adapter, [function, convert, given...] {
            call_and_report(function->get(), convert(given...));
        });
    };
}

}  // namespace ndv::bindings

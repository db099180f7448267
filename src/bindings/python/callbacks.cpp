// SPDX-License-Identifier: Apache-2.0
// The loop of the callback thread.
#include "bindings/python/callbacks.hpp"

#include <cerrno>
#include <exception>
#include <utility>

#include "base/thread_local.hpp"
#include "bindings/python/errors.hpp"
#include "bindings/python/gil.hpp"

namespace ndv::bindings {
namespace {

NDV_THREAD_LOCAL bool is_callback_thread = false;

}  // namespace

void CallbackLoop::start(std::shared_ptr<core::Adapter> adapter) {
    if (has_begun_) return;
    // Starting runs Python code, in which Ctrl-C may arrive, before and after the thread begins,
    // and in which another thread may come here: each makes a thread, and the first to run stays.
    const unsigned attempt = ++attempts_;
    hopes_.push_back(attempt);
    set_running(true);
    const auto give_up = [this, attempt] {
        if (has_begun_) return;
        std::erase(hopes_, attempt);
        if (hopes_.empty()) set_running(false);
    };
    try {
        // The thread object may outlive the loop: its function holds the loop, and the adapter only
        // until run() takes it.
        auto target = [self = shared_from_this(), adapter = std::move(adapter), attempt]() mutable {
            self->run(std::move(adapter), attempt);
        };
        const py::object thread = py::module_::import("threading").attr("Thread");
        using namespace py::literals;
        thread("target"_a = py::cpp_function(std::move(target)), "name"_a = "ndverbs callbacks",
               "daemon"_a = true)
            .attr("start")();
    } catch (py::error_already_set& error) {
        give_up();
        if (!error.matches(PyExc_RuntimeError)) throw;
        raise(Error{Status::insufficient_resources,
                    "the thread for the adapter's callbacks did not start",
                    "raise the limit on processes (ulimit -u, or that of the container)", EAGAIN});
    } catch (const std::exception&) {  // out of memory
        give_up();
        throw;
    }
}

bool CallbackLoop::is_this_thread() const {
    return thread_.load(std::memory_order_relaxed) == std::this_thread::get_id();
}

bool CallbackLoop::is_any_on_this_thread() { return is_callback_thread; }

void CallbackLoop::set_running(bool is_running) {
    is_running_.store(is_running, std::memory_order_release);  // pairs with wait_until_ended()
    is_running_.notify_all();
}

void CallbackLoop::run(std::shared_ptr<core::Adapter> adapter, unsigned attempt) {
    if (has_begun_ || std::erase(hopes_, attempt) == 0) return;
    has_begun_ = true;
    // Signals are not blocked here: a process that a callback starts would inherit that.
    survive_exit();
    thread_.store(std::this_thread::get_id(), std::memory_order_relaxed);
    is_callback_thread = true;
    while (true) {
        core::CallbackQueue::Task task;
        {
            const Released released;
            task = adapter->callbacks().pop();
        }
        if (!task) break;
        try {
            task();
        } catch (const std::exception&) {
            report_exception("ndverbs callback");
        }
        task = nullptr;  // what it holds goes before the task counts as done
        run_deferred();
        adapter->callbacks().done();
        if (then_ && !adapter->is_closed()) {
            const Released released;
            try {
                adapter->close();
            } catch (const std::exception&) {  // out of memory: it is closed all the same
            }
            adapter->callbacks().stop(true);
        }
    }
    thread_.store({}, std::memory_order_relaxed);
    adapter = nullptr;
    set_running(false);
    if (then_) std::exchange(then_, nullptr)();
}

void call_and_report(const py::object& function, const py::object& argument) noexcept {
    if (!function) return;
    PyObject* const result = argument ? PyObject_CallOneArg(function.ptr(), argument.ptr())
                                      : PyObject_CallNoArgs(function.ptr());
    if (result == nullptr) PyErr_WriteUnraisable(function.ptr());
    Py_XDECREF(result);
}

void report_exception(const char* where) noexcept {
    try {
        throw;
    } catch (py::error_already_set& error) {
        error.discard_as_unraisable(where);
    } catch (const std::exception& error) {  // out of memory, most likely
        PyErr_SetString(PyExc_MemoryError, error.what());
        PyErr_WriteUnraisable(nullptr);
    }
}

}  // namespace ndv::bindings

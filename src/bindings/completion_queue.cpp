// SPDX-License-Identifier: Apache-2.0
// Arming, waiting and the descriptor of completion queues.
#include "bindings/completion_queue.hpp"

#include <pybind11/stl.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <string>

#include "bindings/enums.hpp"
#include "bindings/module.hpp"
#include "bindings/python/callbacks.hpp"
#include "bindings/python/collected.hpp"
#include "bindings/python/contexts.hpp"
#include "bindings/python/errors.hpp"

namespace ndv::bindings {
namespace {

// Ends the sleep of a thread that watches the descriptor, or a duplicate, of a queue that closes.
void signal_descriptor(core::CompletionQueue& queue) {
    const auto descriptor = queue.descriptor();
    const std::uint64_t one = 1;
    // It can only be full, and then it is readable anyway.
    if (auto fd = descriptor) static_cast<void>(!::write(*fd, &one, sizeof one));
    queue.nudge();  // the descriptor of a watch may be another one
}

// False: the time is over. `ends_early`: also when the queue was nudged.
bool wait_until_ready(core::CompletionQueue& queue, std::optional<double> timeout,
                      bool ends_early) {
    return wait_in_slices(Deadline(timeout), [&queue, ends_early](auto slice) {
        return queue.wait(slice) || queue.is_closed() || (queue.was_nudged() && ends_early);
    });
}

bool wait(const CompletionQueue& self, std::optional<double> timeout) {
    const std::shared_ptr<core::CompletionQueue> queue = self.share();
    const bool is_ready = wait_until_ready(*queue, timeout, false);
    static_cast<void>(self.get());
    if (queue->is_empty() && is_failure(queue->status())) raise(queue_error(*queue));
    if (!is_ready) {
        raise(Status::io_timeout, "wait: no completion within " + seconds_text(*timeout),
              "posted requests go on; call wait again");
    }
    return true;
}

}  // namespace

Error queue_error(const core::CompletionQueue& queue) {
    const Status status = queue.status();
    if (status == Status::buffer_overflow) {
        return {status,
                "the completion queue overran: more than its depth of " +
                    std::to_string(queue.depth()) + " completions were waiting",
                "it and its queue pairs are dead; create one as deep as the sum of their queues",
                0};
    }
    return {status, "the completion queue failed: " + std::string(status_meaning(status)), {}, 0};
}

void warn_of_overrun(core::CompletionQueue& queue) {
    if (!queue.should_warn()) return;
    py::module_::import("ndverbs.errors").attr("warn_of_overrun")(queue.depth(), queue.promised());
}

CompletionQueue::CompletionQueue(std::shared_ptr<core::CompletionQueue> native,
                                 std::shared_ptr<AdapterState> adapter, const py::object& on_notify)
    : Handle("completion queue", std::move(native), std::move(adapter)) {
    if (on_notify.is_none()) return;
    // One callback thread per adapter: the calls of one queue never overlap.
    const auto function = SharedObject::function(on_notify, "on_notify");
    set_calls({function});
    peek()->set_on_notify([callbacks = this->adapter()->with_callbacks(),
                           queue = std::weak_ptr(peek()), function](Status status) {
        queue_callback(callbacks, [queue, function, status] {
            const auto alive = queue.lock();
            if (alive == nullptr || alive->is_closed()) return;
            call_and_report(function->get(),
                            py::reinterpret_steal<py::object>(status_member(status)));
        });
    });
}

void CompletionQueue::will_give(const py::object& contexts) {
    // One queue for both kinds, or one shared receive queue of many queue pairs.
    const auto is_same = [&contexts](const py::object& one) { return one.is(contexts); };
    if (std::ranges::any_of(gives_, is_same)) return;
    pruning_.prune(gives_, [](const py::object& one) { return !Contexts::is_alive(one); });
    gives_.push_back(contexts);
}

int CompletionQueue::traverse(visitproc visit, void* arg) const {
    for (const py::object& contexts : gives_) Py_VISIT(contexts.ptr());
    return Handle::traverse(visit, arg);
}

void CompletionQueue::clear() noexcept {
    const auto given = std::exchange(gives_, {});
    Handle::clear();
}

// The new storage may be large: without the GIL.
void CompletionQueue::resize(std::uint32_t depth) {
    const std::shared_ptr<core::CompletionQueue> native = share();
    check_or_raise(without_gil([&] { return native->resize(depth); }));
    warn_of_overrun(*native);
}

void CompletionQueue::close() {
    if (has_descriptor_ && is_usable()) signal_descriptor(*peek());
    Handle::close();
    const auto given = std::exchange(gives_, {});
}

int CompletionQueue::fileno() {
    const std::shared_ptr<core::CompletionQueue> queue = share();
    const int fd = value_or_raise(queue->descriptor());
    if (!has_descriptor_) {
        has_descriptor_ = true;
        core::CompletionQueue* const raw = queue.get();
        adapter()->on_close(queue, [raw] { signal_descriptor(*raw); });
    }
    return fd;
}

void bind_completion_queue(py::module_& module) {
    py::class_<CompletionQueue> cls(module, "CompletionQueue", py::is_final(),
                                    collected<CompletionQueue>());
    bind_handle(cls);
    bind_repr(cls, [](const CompletionQueue& self) {
        return "depth " + std::to_string(self.get().depth());
    });
    cls.def_property_readonly("depth", native_call<CompletionQueue>(&core::CompletionQueue::depth))
        .def(
            "arm",
            [](const CompletionQueue& self, core::Notify kind) {
                self.get().arm(kind);
                if (kind != core::Notify::errors) self.get().end_lease();
            },
            py::arg("kind") = core::Notify::any)
        .def("wait", wait, py::arg("timeout") = py::none())
        .def(
            "_wait",
            [](const CompletionQueue& self, std::optional<double> timeout) {
                const std::shared_ptr<core::CompletionQueue> queue = self.share();
                static_cast<void>(wait_until_ready(*queue, timeout, true));
            },
            py::arg("timeout"))
        .def("_watch_fileno",
             [](CompletionQueue& self) {
                 static_cast<void>(self.fileno());  // so that closing the queue ends the watch
                 return value_or_raise(self.get().watch_descriptor());
             })
        .def("_begin_watch", [](const CompletionQueue& self) { return self.get().begin_watch(); })
        .def("_end_watch", [](const CompletionQueue& self) { self.get().end_watch(); })
        .def("_nudge", [](const CompletionQueue& self) { self.get().nudge(); })
        .def("resize", &CompletionQueue::resize, py::arg("depth"))
        .def("control_interrupt_moderation",
             native_call<CompletionQueue>(&core::CompletionQueue::control_interrupt_moderation),
             py::arg("interval_us"), py::arg("count"))
        .def("fileno", &CompletionQueue::fileno)
        .def("_is_ready", [](const CompletionQueue& self) {
            const core::CompletionQueue& queue = self.get();
            return !queue.is_empty() || is_failure(queue.status());
        });
    attach_hot_completion_queue_calls(cls);
}

}  // namespace ndv::bindings

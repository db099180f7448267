// SPDX-License-Identifier: Apache-2.0
// Arming, waiting and the descriptor of completion queues.
#include "bindings/completion_queue.hpp"

#include <pybind11/native_enum.h>
#include <pybind11/stl.h>
#include <unistd.h>

#include <optional>
#include <string>

#include "bindings/errors.hpp"
#include "bindings/module.hpp"

namespace ndv::bindings {
namespace {

// Ends the sleep of whoever watches the descriptor, or a duplicate, of a queue that closes.
void signal_descriptor(core::CompletionQueue& queue) {
    const auto descriptor = queue.descriptor();
    const std::uint64_t one = 1;
    // It can only be full, and then it is readable anyway.
    if (auto fd = descriptor) static_cast<void>(!::write(*fd, &one, sizeof one));
}

bool wait(const CompletionQueue& self, std::optional<double> timeout) {
    const std::shared_ptr<core::CompletionQueue> queue = self.share();
    const Deadline deadline(timeout);
    const bool is_ready = wait_in_slices(
        deadline, [&queue](auto slice) { return queue->wait(slice) || queue->is_closed(); });
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

void CompletionQueue::close() {
    if (has_descriptor_ && is_usable()) signal_descriptor(*peek());
    Handle::close();
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
                                    "Where requests of queue pairs end.");
    bind_handle(cls);
    cls.def_property_readonly("depth",
                              [](const CompletionQueue& self) { return self.get().depth(); })
        .def(
            "arm", [](const CompletionQueue& self, core::Notify kind) { self.get().arm(kind); },
            py::arg("kind") = core::Notify::any, "Ask for one notification of the descriptor.")
        .def("wait", wait, py::arg("timeout") = py::none(),
             "Sleep until the queue holds a completion.")
        .def("fileno", &CompletionQueue::fileno, "Return the descriptor that arm() uses.")
        .def("_is_ready",
             [](const CompletionQueue& self) {
                 const core::CompletionQueue& queue = self.get();
                 return !queue.is_empty() || is_failure(queue.status());
             })
        .def("__repr__", [](const CompletionQueue& self) -> std::string {
            if (!self.is_usable())
                return std::string("<CompletionQueue ") + self.unusable_text() + ">";
            return "<CompletionQueue depth " + std::to_string(self.peek()->depth()) + ">";
        });
    attach_hot_completion_queue_calls(cls);
}

}  // namespace ndv::bindings

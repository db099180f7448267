// SPDX-License-Identifier: Apache-2.0
// Waiting for operations, and their callbacks.
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <utility>

#include "bindings/connection.hpp"
#include "bindings/module.hpp"
#include "bindings/python/errors.hpp"

namespace ndv::bindings {

void Operation::wait(std::optional<double> timeout, const char* what) const {
    const std::shared_ptr<core::Operation> native = native_;
    const bool is_done =
        wait_in_slices(Deadline(timeout), [&native](auto slice) { return native->wait(slice); });
    if (!is_done) {
        raise(Status::io_timeout,
              std::string(what) + ": not done within " + seconds_text(*timeout));
    }
    raise_failure();
}

void Operation::wait_or_abandon(std::optional<double> timeout, const char* what) const {
    try {
        wait(timeout, what);
    } catch (const py::error_already_set&) {
        if (!is_done()) abandon();
        throw;
    }
}

void Operation::raise_failure() const {
    if (!native_->is_done()) {
        raise(Status::pending, "result: the operation is still under way", "wait() for it first");
    }
    check_or_raise(native_->outcome());
}

void Operation::abandon() const {
    const std::function<void()> function = abandon_;
    const Released released;
    function();
}

void Operation::add_done_callback(const py::object& self, const py::object& function) {
    if (is_done()) {
        function(self);
        return;
    }
    const std::weak_ptr<core::Adapter> adapter = adapter_->with_callbacks();
    callbacks_->list.emplace_back(SharedObject::function(function, "function"),
                                  SharedObject::make(self));
    if (callbacks_->is_hooked) return;
    callbacks_->is_hooked = true;
    native_->set_on_done([adapter, callbacks = callbacks_] {
        queue_callback(adapter, [callbacks] {
            callbacks->is_hooked = false;
            for (const auto& [callback, operation] : std::exchange(callbacks->list, {})) {
                call_and_report(callback->get(), operation->get());
            }
        });
    });
}

void bind_operation(py::module_& module) {
    py::class_<Operation>(module, "Operation", py::is_final())
        .def(
            "wait",
            [](const Operation& self, std::optional<double> timeout) {
                self.wait(timeout, "wait");
            },
            py::arg("timeout"))
        .def("done", &Operation::is_done)
        .def("result", &Operation::raise_failure)
        .def("abandon", &Operation::abandon)
        .def(
            "add_done_callback",
            [](const py::object& self, const py::object& function) {
                self.cast<Operation&>().add_done_callback(self, function);
            },
            py::arg("function"))
        .def("__repr__", [](const Operation& self) {
            return self.is_done() ? "<Operation done>" : "<Operation under way>";
        });
}

}  // namespace ndv::bindings

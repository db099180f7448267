// SPDX-License-Identifier: Apache-2.0
// Error values to Python exceptions.
#include "bindings/python/errors.hpp"

#include <pybind11/pybind11.h>

#include "bindings/python/integers.hpp"

namespace ndv::bindings {
namespace {

namespace py = pybind11;

// ndverbs.errors.from_core, fetched once, when an adapter is opened. Kept for good: it may be
// needed while modules go. Not a guarded static: importing may give the GIL up in the middle.
constinit PyObject* from_core = nullptr;

py::handle exception_maker() {
    if (from_core == nullptr) {
        py::object function = py::module_::import("ndverbs.errors").attr("from_core");
        if (from_core == nullptr) from_core = function.release().ptr();
    }
    return from_core;
}

void set_exception(const Error& error, bool is_about_a_buffer) {
    const py::object exception =
        exception_maker()(static_cast<std::uint32_t>(error.status), error.what, error.hint,
                          error.os_error, is_about_a_buffer);
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception.ptr())), exception.ptr());
}

}  // namespace

void prepare_errors() { static_cast<void>(exception_maker()); }

void raise(const Error& error) {
    set_exception(error, false);
    throw py::error_already_set();
}

void raise(Status status, std::string what, std::string hint) {
    raise(Error{status, std::move(what), std::move(hint), 0});
}

void raise_buffer_error(Status status, std::string what, std::string hint) {
    set_exception(Error{status, std::move(what), std::move(hint), 0}, true);
    throw py::error_already_set();
}

}  // namespace ndv::bindings

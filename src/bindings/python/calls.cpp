// SPDX-License-Identifier: Apache-2.0
// What a call with wrong arguments says. pybind11's own text lists signatures as C++ has them and
// names no argument. So each of its functions gets a layer, which asks ndverbs._calls for a better
// exception when a call has failed, and costs nothing more than one call when it has not.
#include <pybind11/pybind11.h>

#include <string>

#include "bindings/module.hpp"

namespace ndv::bindings {
namespace {

using Entry = PyObject* (*)(PyObject*, PyObject* const*, Py_ssize_t, PyObject*);

// pybind11's: one for all of its functions.
constinit Entry original = nullptr;

// Replaces the exception that is set, if it is pybind11's about arguments.
void explain(PyObject* const* args, Py_ssize_t count, PyObject* keywords) {
    py::error_already_set cause;  // takes it
    const py::str text(cause.value());
    if (std::string(text).find("(): incompatible ") == std::string::npos) {
        cause.restore();
        return;
    }
    py::tuple given(static_cast<std::size_t>(count));
    for (Py_ssize_t i = 0; i < count; ++i) {
        given[static_cast<std::size_t>(i)] = py::handle(args[i]);
    }
    py::dict named;
    const Py_ssize_t named_count = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
    for (Py_ssize_t i = 0; i < named_count; ++i) {
        named[py::handle(PyTuple_GET_ITEM(keywords, i))] = py::handle(args[count + i]);
    }
    const py::object better =
        py::module_::import("ndverbs._calls").attr("explain")(text, given, named);
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(better.ptr())), better.ptr());
}

PyObject* checked(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* keywords) {
    PyObject* const result = original(self, args, count, keywords);
    if (result == nullptr && PyErr_ExceptionMatches(PyExc_TypeError) != 0) {
        try {
            explain(args, count, keywords);
        } catch (py::error_already_set& error) {
            error.restore();
        }
    }
    return result;
}

PyCFunction as_method(Entry entry) {
    return reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(entry));
}

// `object`: what stands under a name of the module or of a class.
void check_calls_of(py::handle object) {
    if (!object) return;
    if (PyInstanceMethod_Check(object.ptr()) != 0) {
        check_calls_of(PyInstanceMethod_GET_FUNCTION(object.ptr()));
    } else if (Py_IS_TYPE(object.ptr(), &PyStaticMethod_Type)) {
        check_calls_of(py::object(object.attr("__func__")));
    } else if (Py_IS_TYPE(object.ptr(), &PyProperty_Type)) {
        check_calls_of(py::object(object.attr("fget")));
        check_calls_of(py::object(object.attr("fset")));
    } else if (PyCFunction_CheckExact(object.ptr()) != 0) {
        PyMethodDef& method = *reinterpret_cast<PyCFunctionObject*>(object.ptr())->m_ml;
        if (method.ml_meth == as_method(original)) method.ml_meth = as_method(checked);
    }
}

}  // namespace

void check_calls(py::module_& module) {
    const py::object known = module.attr("adapters");
    const PyMethodDef& method = *reinterpret_cast<PyCFunctionObject*>(known.ptr())->m_ml;
    if (method.ml_flags != (METH_FASTCALL | METH_KEYWORDS)) return;  // another pybind11 than ours
    original = reinterpret_cast<Entry>(reinterpret_cast<void (*)()>(method.ml_meth));
    for (const auto& [name, value] : py::dict(module.attr("__dict__"))) {
        check_calls_of(value);
        if (!py::isinstance<py::type>(value)) continue;
        for (const auto& [member, inner] : py::dict(value.attr("__dict__"))) check_calls_of(inner);
    }
}

}  // namespace ndv::bindings

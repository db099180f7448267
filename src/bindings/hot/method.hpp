// SPDX-License-Identifier: Apache-2.0
// What the METH_FASTCALL calls share: the handle in an instance, the end of a posting call, and the
// entry that lets no C++ exception into the interpreter.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <memory>
#include <new>

#include "bindings/python/arguments.hpp"
#include "bindings/python/contexts.hpp"
#include "bindings/python/errors.hpp"
#include "bindings/queue_pair.hpp"
#include "core/queue_pair.hpp"

namespace ndv::bindings {

// Raises when it was never made or cannot be used any more.
template <typename Value>
Value& usable(PyObject* self) {
    auto* const handle = value_pointer<Value>(self);
    if (handle == nullptr) throw py::type_error("the object was never initialised");
    static_cast<void>(handle->get());
    return *handle;
}

// Large steps of a posting call. What they leave of a long request goes on in other threads, or in
// the poll that waits for it: memory takes bytes without end, where a socket is full at some time.
inline constexpr int kPostingSteps = 4;

// The step that a small budget has left: too large to take with the GIL.
inline void transmit_large(const QueuePair& handle) {
    const std::shared_ptr<core::QueuePair> native = handle.peek();
    const Released released;
    for (int i = 0; i < kPostingSteps && native->transmit(core::Budget::large); ++i) {
    }
}

// `needs_large`: NDK promises that what was deferred before a request that fails is started.
template <typename Request>
[[noreturn]] void refuse(QueuePair& handle, Status status, const Request& request,
                         const Context& context, bool needs_large) {
    const Error error = handle.peek()->explain(status, request);
    handle.contexts().forget(context);
    if (needs_large && handle.is_usable()) transmit_large(handle);
    raise(error);
}

// The end of a posting call; `handle` has just been found usable.
template <auto kPost, typename Request>
PyObject* post(QueuePair& handle, Request& request, PyObject* context_object) {
    const Context context = handle.contexts().take(context_object);
    request.context = context.value;
    request.context_is_object = context.is_object;
    bool needs_large = false;
    const Status status = handle.peek()->template post_and_transmit<kPost>(request, needs_large);
    if (status != Status::success) [[unlikely]]
        refuse(handle, status, request, context, needs_large);
    if (needs_large) [[unlikely]]
        transmit_large(handle);
    Py_RETURN_NONE;
}

// What a request was given; null where nothing was.
struct Given {
    PyObject* segments = nullptr;
    PyObject* remote = nullptr;  // all but sends
    PyObject* context = nullptr;
    PyObject* flags = nullptr;
};

// The rest of a posting call whose own arguments are in `request` already. In queue_pair.cpp.
PyObject* post_request(PyObject* self, core::WorkRequest request, const Given& given);

// What the interpreter calls: no C++ exception gets past it.
template <auto kCall, auto& kParameters>
PyObject* entry(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* keywords) {
    try {
        return kCall(self, parse(kParameters, args, count, keywords));
    } catch (py::error_already_set& error) {
        error.restore();
    } catch (const py::builtin_exception& error) {
        error.set_error();
    } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_RuntimeError, error.what());
    }
    return nullptr;
}

// Makes it a method of the class; document() adds its page.
template <auto kCall, auto& kParameters>
void attach(const py::handle& cls) {
    kParameters.intern();
    // The descriptor keeps a pointer to it.
    static PyMethodDef definition{
        kParameters.function,
        reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(entry<kCall, kParameters>)),
        METH_FASTCALL | METH_KEYWORDS, nullptr};
    const auto descriptor = py::reinterpret_steal<py::object>(
        PyDescr_NewMethod(reinterpret_cast<PyTypeObject*>(cls.ptr()), &definition));
    if (!descriptor) throw py::error_already_set();
    cls.attr(kParameters.function) = descriptor;
}

}  // namespace ndv::bindings

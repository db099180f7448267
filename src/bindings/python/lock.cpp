// SPDX-License-Identifier: Apache-2.0
// _Lock, the lock of what is written in Python: a call that comes in the middle of another call of
// its own thread, from a signal handler or a finalizer, is refused, as the files of `io` refuse it.
// A lock of `threading` would wait for itself.
#include <pybind11/pybind11.h>

#include <atomic>
#include <chrono>
#include <new>
#include <optional>

#include "bindings/module.hpp"
#include "bindings/python/gil.hpp"

namespace ndv::bindings {
namespace {

struct Lock {
    PyObject_HEAD PyThread_type_lock native;
    std::atomic<unsigned long> owner;  // its identity as `threading` has it; 0: nobody
};

Lock* of(PyObject* self) { return reinterpret_cast<Lock*>(self); }

PyObject* make(PyTypeObject* type, PyObject*, PyObject*) {
    PyObject* const self = type->tp_alloc(type, 0);
    if (self == nullptr) return nullptr;
    new (&of(self)->owner) std::atomic<unsigned long>(0);
    of(self)->native = PyThread_allocate_lock();
    if (of(self)->native == nullptr) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return self;
}

void destroy(PyObject* self) {
    if (of(self)->native != nullptr) PyThread_free_lock(of(self)->native);
    PyTypeObject* const type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

// 1: this thread has it, 0: not in time, -1: an exception is set.
int acquire(Lock& lock, std::optional<double> timeout_s) {
    const unsigned long me = PyThread_get_thread_ident();
    if (lock.owner.load(std::memory_order_relaxed) == me) {
        PyErr_SetString(PyExc_RuntimeError,
                        "reentrant call: a signal handler or a finalizer called this in the middle "
                        "of another call of the same thread");
        return -1;
    }
    if (PyThread_acquire_lock(lock.native, NOWAIT_LOCK) == 0) {
        const auto attempt = [&lock](std::chrono::nanoseconds slice) {
            const auto slice_us =
                std::chrono::duration_cast<std::chrono::microseconds>(slice).count();
            return PyThread_acquire_lock_timed(lock.native, slice_us, 1) == PY_LOCK_ACQUIRED;
        };
        try {
            if (!wait_in_slices(Deadline(timeout_s), attempt)) return 0;
        } catch (py::error_already_set& raised) {
            raised.restore();
            return -1;
        }
    }
    lock.owner.store(me, std::memory_order_relaxed);
    return 1;
}

PyObject* enter(PyObject* self, PyObject*) {
    if (acquire(*of(self), {}) < 0) return nullptr;
    Py_RETURN_NONE;
}

PyObject* acquire_in_time(PyObject* self, PyObject* timeout) {
    const double timeout_s = PyFloat_AsDouble(timeout);
    if (PyErr_Occurred() != nullptr) return nullptr;
    const int outcome = acquire(*of(self), timeout_s);
    return outcome < 0 ? nullptr : PyBool_FromLong(outcome);
}

PyObject* leave(PyObject* self, PyObject* const*, Py_ssize_t) {
    Lock& lock = *of(self);
    if (lock.owner.load(std::memory_order_relaxed) != PyThread_get_thread_ident()) {
        PyErr_SetString(PyExc_RuntimeError, "this thread does not have the lock");
        return nullptr;
    }
    lock.owner.store(0, std::memory_order_relaxed);
    PyThread_release_lock(lock.native);
    Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"__enter__", enter, METH_NOARGS, nullptr},
    {"__exit__", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(leave)), METH_FASTCALL,
     nullptr},
    {"acquire", acquire_in_time, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

PyType_Slot slots[] = {
    {Py_tp_new, reinterpret_cast<void*>(make)},
    {Py_tp_dealloc, reinterpret_cast<void*>(destroy)},
    {Py_tp_methods, methods},
    {0, nullptr},
};

PyType_Spec spec = {"ndverbs._native._Lock", sizeof(Lock), 0, Py_TPFLAGS_DEFAULT, slots};

}  // namespace

void bind_lock(py::module_& module) {
    PyObject* const type = PyType_FromSpec(&spec);
    if (type == nullptr) throw py::error_already_set();
    module.attr("_Lock") = py::reinterpret_steal<py::object>(type);
}

}  // namespace ndv::bindings

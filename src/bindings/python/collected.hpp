// SPDX-License-Identifier: Apache-2.0
// Garbage collection: classes whose instances hold Python objects natively show them to the
// collector, so that a cycle through a callback, a context or a buffer is found.
//
// What is shown is what the instance alone keeps: a reference is visited once, by one object. What
// else native code holds (an operation under way) is not visited, and so keeps what it refers to.
// The collector asks several times and takes the answers for one state of things, so they depend
// on nothing that threads change without the GIL.
#pragma once

#include <pybind11/pybind11.h>

#include "bindings/python/handle.hpp"

namespace ndv::bindings {

// `Value` has, both with the GIL:
//   int traverse(visitproc visit, void* arg) const   visits; returns what visit returns if not 0
//   void clear() noexcept                            drops what was visited
template <typename Value>
[[nodiscard]] py::custom_type_setup collected() {
    return py::custom_type_setup([](PyHeapTypeObject* heap_type) {
        PyTypeObject* const type = &heap_type->ht_type;
        type->tp_flags |= Py_TPFLAGS_HAVE_GC;
        type->tp_traverse = [](PyObject* self, visitproc visit, void* arg) -> int {
            Py_VISIT(Py_TYPE(self));
            // Null while it is made.
            const auto* const value = value_pointer<Value>(self);
            return value == nullptr ? 0 : value->traverse(visit, arg);
        };
        type->tp_clear = [](PyObject* self) -> int {
            if (auto* const value = value_pointer<Value>(self)) value->clear();
            return 0;
        };
    });
}

}  // namespace ndv::bindings

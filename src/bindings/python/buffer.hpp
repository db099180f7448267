// SPDX-License-Identifier: Apache-2.0
// Python buffers: the export that keeps registered memory where it is, and the look at an array
// slice that a request names.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/memory.hpp"

namespace ndv::bindings {

namespace py = pybind11;

// Exports `object` for registration with `rights`; the caller owns one reference. Raises for what
// cannot be registered: no buffer, not contiguous, empty, object pointers, read-only.
[[nodiscard]] core::BufferHold* export_for_registration(const py::object& object,
                                                        std::uint32_t rights);

// The reference that an export has to its exporter, for the garbage collector. With the GIL.
struct Exporter {
    PyObject* object = nullptr;  // null: given back, or its clearing might free exported memory
    int traverse(visitproc visit, void* arg) const {
        Py_VISIT(object);
        return 0;
    }
};
// Of what export_for_...() returned; one handle shows it.
[[nodiscard]] std::shared_ptr<const Exporter> exporter_of(const core::BufferHold& hold);

// Exports `object` for a logical address mapping, writable where it can be.
[[nodiscard]] core::BufferHold* export_for_mapping(const py::object& object);

// Exports `object`, which may be empty, for a request of a stream; `call` names who asks.
[[nodiscard]] core::BufferHold* export_for_transfer(const char* call, PyObject* object,
                                                    bool is_written);

// Exports `object` or raises with reason and remedy; `call` names who asks. The caller releases.
void export_or_raise(const char* call, PyObject* object, bool is_written, Py_buffer& view);
// As export_or_raise(), and raises for memory that holds Python objects.
void export_plain_or_raise(const char* call, PyObject* object, bool is_written, Py_buffer& view);

// Whether all of it can be read now, asked of the kernel.
[[nodiscard]] bool is_readable(std::uint64_t address, std::uint64_t length);

struct Extent {
    std::uint64_t address = 0;
    std::uint64_t length = 0;
};

// Where the buffer of `object` lies. The export is given back at once: what keeps the memory is
// the registration that it lies in.
[[nodiscard]] Extent buffer_extent(PyObject* object, bool is_written);

}  // namespace ndv::bindings

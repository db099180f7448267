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

// An export of a Python buffer, or of none yet: its memory stays where it is until the end of the
// scope. With the GIL.
class Export {
public:
    Export() { view_.obj = nullptr; }
    // As take().
    Export(const char* call, PyObject* object, bool is_written) { take(call, object, is_written); }
    Export(Export&& other) noexcept : view_(other.view_) { other.view_.obj = nullptr; }
    ~Export() {
        if (view_.obj != nullptr) PyBuffer_Release(&view_);
    }

    // Raises with reason and remedy; `call` names who asks.
    void take(const char* call, PyObject* object, bool is_written);
    // And raises for memory that holds Python objects.
    void take_plain(const char* call, PyObject* object, bool is_written);
    // False, with the exporter's exception set: it cannot do all of `flags` (PyBUF_...).
    [[nodiscard]] bool try_take(PyObject* object, int flags);

    [[nodiscard]] const Py_buffer& view() const { return view_; }
    [[nodiscard]] std::byte* data() const { return static_cast<std::byte*>(view_.buf); }
    [[nodiscard]] std::size_t size() const { return static_cast<std::size_t>(view_.len); }

private:
    Py_buffer view_;
};

// Raises a TypeError, which says `what`, unless the array has the dtype.
void check_dtype(PyObject* array, PyObject* dtype, const char* what);

// The rows of a C-contiguous array of `dtype`, whose memory holds them as `Row` does.
template <typename Row>
class Rows {
public:
    // Raises as check_dtype() and Export do.
    Rows(const char* call, PyObject* array, PyObject* dtype, const char* what, bool is_written) {
        check_dtype(array, dtype, what);
        export_.take(call, array, is_written);
    }
    [[nodiscard]] Row& operator[](std::size_t i) const {
        return reinterpret_cast<Row*>(export_.data())[i];
    }
    [[nodiscard]] std::size_t size() const { return export_.size() / sizeof(Row); }

private:
    Export export_;
};

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

// Whether all of it can be read now, asked of the kernel.
[[nodiscard]] bool is_readable(std::uint64_t address, std::uint64_t length);

}  // namespace ndv::bindings

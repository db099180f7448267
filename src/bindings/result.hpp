// SPDX-License-Identifier: Apache-2.0
// Completions as Python sees them: Result, a struct sequence, and rows of result_dtype.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/types.hpp"

namespace ndv::bindings {

namespace py = pybind11;

// X(type, name, index, object, number): a field of Result, where it has this index (from 0, without
// a gap), and of its rows, which have this order. `object` makes what Result has, a new reference,
// out of `done`, `contexts` and the `request_context` that was given back; `number` is what a row
// has.
#define NDV_RESULT_LIST(X)                                                                  \
    X(std::uint32_t, status, 0, status_member(done.status),                                 \
      static_cast<std::uint32_t>(done.status))                                              \
    X(std::uint32_t, type, 4, operation_type_member(done.type),                             \
      static_cast<std::uint32_t>(done.type))                                                \
    X(std::uint64_t, bytes_transferred, 1, PyLong_FromUnsignedLong(done.bytes_transferred), \
      done.bytes_transferred)                                                               \
    X(std::uint64_t, qp_context, 2, Py_NewRef(contexts->queue_pair_context()),              \
      contexts->queue_pair_number())                                                        \
    X(std::uint64_t, request_context, 3, request_context,                                   \
      done.context_is_object ? 0 : done.context)                                            \
    X(std::uint64_t, immediate, 6, immediate_object(done),                                  \
      done.has_immediate ? done.immediate : 0)                                              \
    X(std::uint32_t, invalidated_token, 5, PyLong_FromUnsignedLong(done.invalidated_token), \
      done.invalidated_token)

// One row of result_dtype (NDK_RESULT_EX without holes).
struct ResultRow {
#define NDV_X(type, name, ...) type name;
    NDV_RESULT_LIST(NDV_X)
#undef NDV_X
    std::uint32_t flags;  // kRow*
};

inline constexpr std::uint32_t kRowSolicited = 1;
inline constexpr std::uint32_t kRowHasImmediate = 2;
inline constexpr std::uint32_t kRowContextWasObject = 4;  // and request_context is 0

// Takes the completion over: its context is given back, and its request is outstanding no longer.
// Null: a Python exception is set, and the completion is gone all the same.
[[nodiscard]] PyObject* make_result(const core::Completion& completion);
// The same but for the request, which the caller ends.
void fill_row(const core::Completion& completion, ResultRow& row);

// Borrowed: the dtype of rows.
[[nodiscard]] PyObject* result_dtype();

// A column of a dtype whose rows are a struct of unsigned numbers.
struct Column {
    const char* name;
    std::size_t size;
    std::size_t offset;
};
[[nodiscard]] py::object dtype_of(std::span<const Column> columns, std::size_t row_size);

}  // namespace ndv::bindings

// SPDX-License-Identifier: Apache-2.0
// Completions as Python sees them: Result, a struct sequence, and rows of result_dtype.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

#include "core/types.hpp"

namespace ndv::bindings {

// One row of result_dtype (NDK_RESULT_EX without holes).
struct ResultRow {
    std::uint32_t status;
    std::uint32_t type;
    std::uint64_t bytes_transferred;
    std::uint64_t qp_context;
    std::uint64_t request_context;
    std::uint64_t immediate;
    std::uint32_t invalidated_token;
    std::uint32_t flags;  // kRow*
};
static_assert(sizeof(ResultRow) == 48);

inline constexpr std::uint32_t kRowSolicited = 1;
inline constexpr std::uint32_t kRowHasImmediate = 2;
inline constexpr std::uint32_t kRowContextWasObject = 4;  // and request_context is 0

// Both take the completion over: its context is given back, and its request is outstanding no
// longer. Null: a Python exception is set, and the completion is gone all the same.
[[nodiscard]] PyObject* make_result(const core::Completion& completion);
void fill_row(const core::Completion& completion, ResultRow& row);

// Borrowed: the dtype of rows.
[[nodiscard]] PyObject* result_dtype();

}  // namespace ndv::bindings

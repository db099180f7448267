// SPDX-License-Identifier: Apache-2.0
// Python's enums, and their members without a lookup.
#pragma once

#include <pybind11/pybind11.h>

#include "core/extension.hpp"
#include "core/types.hpp"

namespace ndv::bindings {

namespace py = pybind11;

// core has these two as plain bits; Python as IntFlag.
enum class Flag : std::uint32_t {};
enum class Access : std::uint32_t {};

// New references to the members.
[[nodiscard]] PyObject* status_member(Status status);
[[nodiscard]] PyObject* operation_type_member(core::OperationType type);
[[nodiscard]] py::object access_member(std::uint32_t rights);

// The names of the calls of an extension, as query_extension() returns them.
[[nodiscard]] py::tuple call_names(const core::extension::Entry& entry);

}  // namespace ndv::bindings

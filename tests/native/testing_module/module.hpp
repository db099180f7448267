// SPDX-License-Identifier: Apache-2.0
// Parts of the extension ndverbs._testing, which shows internals to pytest and is never shipped.
// Each file of this folder adds its functions to the one module.
#pragma once

#include <pybind11/pybind11.h>

#include <stdexcept>
#include <utility>

#include "base/expected.hpp"

namespace ndv::testing {

template <typename T>
T got(Expected<T> value) {
    if (!value) throw std::runtime_error(value.error().what);
    return std::move(*value);
}

void add_adapter(pybind11::module_& module);
void add_wire(pybind11::module_& module);
void add_end(pybind11::module_& module);
void add_engine(pybind11::module_& module);
void add_direct(pybind11::module_& module);
void add_queue(pybind11::module_& module);
void add_stream(pybind11::module_& module);
void add_ranges(pybind11::module_& module);
void add_link(pybind11::module_& module);
void add_establishment(pybind11::module_& module);

}  // namespace ndv::testing

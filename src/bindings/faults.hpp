// SPDX-License-Identifier: Apache-2.0
// Faults as Python sees them.
#pragma once

#include <pybind11/pybind11.h>

namespace ndv::bindings {

void bind_faults(pybind11::module_& module);

}  // namespace ndv::bindings

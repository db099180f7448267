// SPDX-License-Identifier: Apache-2.0
// crc32c, which needs no object.
#pragma once

#include <pybind11/pybind11.h>

namespace ndv::bindings {

void bind_checksum(pybind11::module_& module);

}  // namespace ndv::bindings

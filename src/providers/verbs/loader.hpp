// SPDX-License-Identifier: Apache-2.0
// rdma-core at run time. The functions of libibverbs and librdmacm that this room calls are
// defined in loader.cpp as forwarders, so that nothing links with the libraries and the package
// imports without them. Call load() before the first of them.
#pragma once

#include "base/expected.hpp"

namespace ndv::verbs {

// Opens both libraries, once for the process. Fails with what is missing and how to install it.
[[nodiscard]] const Expected<void>& load();

}  // namespace ndv::verbs

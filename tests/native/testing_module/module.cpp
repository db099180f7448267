// SPDX-License-Identifier: Apache-2.0
// The entry of ndverbs._testing.
#include "module.hpp"

PYBIND11_MODULE(_testing, module) {
    module.doc() = "Internals of ndverbs for its own tests; not part of any release.";
    ndv::testing::add_adapter(module);
    ndv::testing::add_wire(module);
    ndv::testing::add_end(module);
    ndv::testing::add_engine(module);
    ndv::testing::add_direct(module);
    ndv::testing::add_queue(module);
    ndv::testing::add_stream(module);
    ndv::testing::add_ranges(module);
    ndv::testing::add_link(module);
    ndv::testing::add_establishment(module);
}

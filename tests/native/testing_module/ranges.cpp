// SPDX-License-Identifier: Apache-2.0
// The search for registered ranges as a Python object.
#include "core/ranges.hpp"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>

#include "module.hpp"

namespace ndv::testing {
namespace {

namespace py = pybind11;
using core::Range;
using core::Ranges;

std::optional<std::uint32_t> token_of(const Range* range) {
    return range == nullptr ? std::nullopt : std::optional(range->token);
}

}  // namespace

void add_ranges(py::module_& module) {
    py::class_<Ranges>(module, "Ranges")
        .def(py::init<>())
        .def("add",
             [](Ranges& self, std::uint64_t address, std::uint64_t size, std::uint32_t rights,
                std::uint32_t token) {
                 self.add({address, size, rights, token});
             })
        .def("remove",
             [](Ranges& self, std::uint64_t address, std::uint64_t size, std::uint32_t rights,
                std::uint32_t token) {
                 self.remove({address, size, rights, token});
             })
        .def("find",
             [](const Ranges& self, std::uint64_t address, std::uint64_t length,
                std::uint32_t rights) { return token_of(self.find(address, length, rights)); })
        .def("nearest", [](const Ranges& self,
                           std::uint64_t address) { return token_of(self.nearest(address)); })
        .def("height", &Ranges::height);
}

}  // namespace ndv::testing

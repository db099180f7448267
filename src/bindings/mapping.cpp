// SPDX-License-Identifier: Apache-2.0
// Mappings, fast-register regions and windows: creation, tokens, and what a peer is told.
#include "bindings/mapping.hpp"

#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "bindings/enums.hpp"
#include "bindings/memory.hpp"
#include "bindings/module.hpp"
#include "bindings/python/collected.hpp"
#include "bindings/python/errors.hpp"

namespace ndv::bindings {
namespace {

// A NumPy array of the logical addresses, a copy.
py::object page_array(const LogicalAddressMapping& self) {
    const auto pages = self.get().pages();
    const py::bytes bytes(reinterpret_cast<const char*>(pages.data()), pages.size_bytes());
    return py::module_::import("numpy").attr("frombuffer")(bytes, "u8");
}

template <typename Handle>
core::Mapped mapped(const Handle& self) {
    const core::Mapped mapped = self.get().mapped();
    if (mapped.size == 0) {
        raise(Status::invalid_device_request,
              std::string("the ") + self.noun() + " names no memory yet",
              "post fast_register or bind first");
    }
    return mapped;
}

template <typename Handle>
py::object remote(const Handle& self) {
    const core::Mapped what = mapped(self);
    if (what.tokens.remote == 0) {
        raise(Status::access_denied,
              std::string("remote: the ") + self.noun() + " grants no remote right",
              "post it with Flag.ALLOW_REMOTE_READ or Flag.ALLOW_REMOTE_WRITE");
    }
    return make_remote_buffer(what.address, what.tokens.remote, what.size, py::none(), py::none(),
                              what.rights & ~core::access::kRdmaReadSink);
}

core::Segment segment(const FastRegisterMemoryRegion& self, std::uint64_t offset,
                      std::optional<std::uint64_t> nbytes) {
    const core::Mapped what = mapped(self);
    const std::uint64_t length = nbytes.value_or(offset <= what.size ? what.size - offset : 0);
    if (offset > what.size || length > what.size - offset) {
        raise(Status::invalid_parameter,
              "segment: " + std::to_string(length) + " bytes at offset " + std::to_string(offset) +
                  " do not lie inside the region of " + std::to_string(what.size) + " bytes");
    }
    return {what.address + offset, length, what.tokens.local};
}

void bind_lam(py::module_& module) {
    py::class_<LogicalAddressMapping> cls(module, "LogicalAddressMapping", py::is_final(),
                                          collected<LogicalAddressMapping>());
    bind_handle(cls);
    cls.def("release", &LogicalAddressMapping::close)
        .def_property_readonly("pages", page_array)
        .def_property_readonly(
            "first_byte_offset",
            [](const LogicalAddressMapping& self) { return self.get().first_byte_offset(); })
        .def_property_readonly("nbytes",
                               [](const LogicalAddressMapping& self) { return self.get().size(); })
        .def_property_readonly("array", &LogicalAddressMapping::array)
        .def("__repr__", [](const LogicalAddressMapping& self) -> std::string {
            if (!self.is_usable()) {
                return std::string("<LogicalAddressMapping ") + self.unusable_text() + ">";
            }
            return "<LogicalAddressMapping of " + std::to_string(self.get().pages().size()) +
                   " pages>";
        });
}

template <typename Class>
void bind_mapped(Class& cls, const char* name) {
    using Value = typename Class::type;
    bind_handle(cls);
    cls.def_property_readonly("remote_token",
                              [](const Value& self) { return self.get().mapped().tokens.remote; })
        .def_property_readonly("address", [](const Value& self) { return mapped(self).address; })
        .def_property_readonly("nbytes", [](const Value& self) { return mapped(self).size; })
        .def("remote", remote<Value>)
        .def("__repr__", [name](const Value& self) -> std::string {
            const std::string begin = std::string("<") + name + " ";
            if (!self.is_usable()) return begin + self.unusable_text() + ">";
            const core::Mapped what = self.get().mapped();
            if (what.size == 0) return begin + "that names no memory yet>";
            return begin + "of " + std::to_string(what.size) + " bytes>";
        });
}

}  // namespace

void bind_mapping(py::module_& module, py::class_<ProtectionDomain>& domain) {
    bind_lam(module);
    py::class_<FastRegisterMemoryRegion> region(module, "FastRegisterMemoryRegion", py::is_final());
    bind_mapped(region, "FastRegisterMemoryRegion");
    region
        .def_property_readonly(
            "local_token",
            [](const FastRegisterMemoryRegion& self) { return self.get().mapped().tokens.local; })
        .def_property_readonly(
            "max_pages",
            [](const FastRegisterMemoryRegion& self) { return self.get().max_pages(); })
        .def("segment", segment, py::arg("offset") = 0, py::arg("nbytes") = py::none());
    py::class_<MemoryWindow> window(module, "MemoryWindow", py::is_final());
    bind_mapped(window, "MemoryWindow");

    domain
        .def(
            "create_fast_register_mr",
            [](const ProtectionDomain& self, std::uint32_t max_pages, bool remote_access) {
                return std::make_unique<FastRegisterMemoryRegion>(
                    value_or_raise(without_gil([native = self.share(), max_pages, remote_access] {
                        return native->create_fast_register_mr(max_pages, remote_access);
                    })),
                    self.adapter());
            },
            py::arg("max_pages"), py::kw_only(), py::arg("remote_access"))
        .def("create_mw",
             [](const ProtectionDomain& self) {
                 return std::make_unique<MemoryWindow>(
                     value_or_raise(
                         without_gil([native = self.share()] { return native->create_mw(); })),
                     self.adapter());
             })
        .def_property_readonly("privileged_token", [](const ProtectionDomain& self) {
            return value_or_raise(self.get().privileged_token());
        });
}

std::unique_ptr<LogicalAddressMapping> build_lam(const std::shared_ptr<AdapterState>& adapter,
                                                 const py::object& array) {
    const std::shared_ptr<core::Adapter> native = adapter->get();
    core::BufferHold* const hold = export_for_mapping(array);
    std::shared_ptr<const Exporter> exporter = exporter_of(*hold);
    return std::make_unique<LogicalAddressMapping>(value_or_raise(native->build_lam(hold)), adapter,
                                                   array, std::move(exporter));
}

}  // namespace ndv::bindings

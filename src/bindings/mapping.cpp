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
    return part_of({what.address, what.size, what.tokens.local}, offset, nbytes);
}

void bind_lam(py::module_& module) {
    py::class_<LogicalAddressMapping> cls(module, "LogicalAddressMapping", py::is_final(),
                                          collected<LogicalAddressMapping>());
    bind_handle(cls);
    bind_repr(cls, [](const LogicalAddressMapping& self) {
        return "of " + std::to_string(self.get().pages().size()) + " pages";
    });
    using Native = core::LogicalAddressMapping;
    cls.def("release", &LogicalAddressMapping::close)
        .def_property_readonly("pages", page_array)
        .def_property_readonly("first_byte_offset",
                               native_call<LogicalAddressMapping>(&Native::first_byte_offset))
        .def_property_readonly("nbytes", native_call<LogicalAddressMapping>(&Native::size))
        .def_property_readonly("array", &LogicalAddressMapping::array);
}

template <typename Class>
void bind_mapped(Class& cls) {
    using Value = typename Class::type;
    bind_handle(cls);
    bind_repr(cls, [](const Value& self) {
        const std::uint64_t size = self.get().mapped().size;
        return size == 0 ? "that names no memory yet" : "of " + std::to_string(size) + " bytes";
    });
    cls.def_property_readonly("remote_token",
                              [](const Value& self) { return self.get().mapped().tokens.remote; })
        .def_property_readonly("address", [](const Value& self) { return mapped(self).address; })
        .def_property_readonly("nbytes", [](const Value& self) { return mapped(self).size; })
        .def("remote", remote<Value>);
}

}  // namespace

void bind_mapping(py::module_& module, py::class_<ProtectionDomain>& domain) {
    bind_lam(module);
    py::class_<FastRegisterMemoryRegion> region(module, "FastRegisterMemoryRegion", py::is_final());
    bind_mapped(region);
    region
        .def_property_readonly(
            "local_token",
            [](const FastRegisterMemoryRegion& self) { return self.get().mapped().tokens.local; })
        .def_property_readonly("max_pages", native_call<FastRegisterMemoryRegion>(
                                                &core::FastRegisterMemoryRegion::max_pages))
        .def("segment", segment, py::arg("offset") = 0, py::arg("nbytes") = py::none());
    py::class_<MemoryWindow> window(module, "MemoryWindow", py::is_final());
    bind_mapped(window);

    domain
        .def(
            "create_fast_register_mr",
            [](const ProtectionDomain& self, std::uint32_t max_pages, bool remote_access) {
                return std::make_unique<FastRegisterMemoryRegion>(
                    value_or_raise(self.call_without_gil([=](auto& native) {
                        return native.create_fast_register_mr(max_pages, remote_access);
                    })),
                    self.adapter());
            },
            py::arg("max_pages"), py::kw_only(), py::arg("remote_access"))
        .def("create_mw",
             [](const ProtectionDomain& self) {
                 return std::make_unique<MemoryWindow>(
                     value_or_raise(
                         self.call_without_gil([](auto& native) { return native.create_mw(); })),
                     self.adapter());
             })
        .def_property_readonly("privileged_token", native_call<ProtectionDomain>(
                                                       &core::ProtectionDomain::privileged_token));
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

// SPDX-License-Identifier: Apache-2.0
// Registration of Python buffers, segments and remote buffers.
#include "bindings/memory.hpp"

#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "bindings/enums.hpp"
#include "bindings/module.hpp"
#include "bindings/python/collected.hpp"
#include "bindings/python/errors.hpp"

namespace ndv::bindings {
namespace {

// ndverbs.remote.RemoteBuffer, fetched once and kept for good.
constinit PyObject* remote_buffer_type = nullptr;

py::handle remote_buffer() {
    if (remote_buffer_type == nullptr) {
        py::object type = py::module_::import("ndverbs.remote").attr("RemoteBuffer");
        if (remote_buffer_type == nullptr) remote_buffer_type = type.release().ptr();
    }
    return remote_buffer_type;
}

}  // namespace

py::object make_remote_buffer(std::uint64_t address, std::uint32_t token, std::uint64_t nbytes,
                              const py::object& dtype, const py::object& shape,
                              std::uint32_t rights) {
    return remote_buffer()(address, token, nbytes, dtype, shape, access_member(rights));
}

core::Segment part_of(const core::Segment& whole, std::uint64_t offset,
                      std::optional<std::uint64_t> nbytes) {
    const std::uint64_t size = whole.length;
    const std::uint64_t length = nbytes.value_or(offset <= size ? size - offset : 0);
    if (offset > size || length > size - offset) {
        raise(Status::invalid_parameter,
              "segment: " + std::to_string(length) + " bytes at offset " + std::to_string(offset) +
                  " do not lie inside the region of " + std::to_string(size) + " bytes");
    }
    return {whole.address + offset, length, whole.token};
}

void MemoryRegion::register_array(const py::object& array, std::uint32_t rights) {
    const std::shared_ptr<core::MemoryRegion> native = share();
    core::BufferHold* const hold = export_for_registration(array, rights);
    std::shared_ptr<const Exporter> exporter = exporter_of(*hold);
    // Gives the hold back if it fails.
    check_or_raise(without_gil([&] { return native->register_buffer(hold, rights); }));
    static_cast<void>(get());  // closed meanwhile, it holds nothing
    array_ = array;
    exporter_ = std::move(exporter);
    segment_ = {native->address(), native->size(), native->tokens().local};
}

// Waits for processes of this host that have the memory in hand. Whatever ends the wait: the tokens
// are dead, and the array stays exported as long as it has to.
void MemoryRegion::end_access(bool is_forced) {
    const std::shared_ptr<core::MemoryRegion> native = share();
    const auto attempt = [&](std::chrono::nanoseconds patience) {
        return is_forced ? native->end_access(patience) : native->deregister(patience);
    };
    Expected<bool> ended = without_gil([&] { return attempt({}); });
    if (ended && !*ended) {
        segment_ = {};
        static_cast<void>(wait_in_slices(Deadline(std::nullopt), [&](auto slice) {
            ended = attempt(slice);
            return !ended || *ended;
        }));
    }
    if (!is_forced) static_cast<void>(value_or_raise(ended));
}

void MemoryRegion::deregister() {
    end_access(false);
    const py::object array = forget();
}

void MemoryRegion::close() {
    if (is_usable() && array_) end_access(true);
    let_go();
}

void MemoryRegion::let_go() {
    Handle::close();
    const py::object array = forget();
}

void MemoryRegion::drop() {
    const py::object array = forget();
    const std::shared_ptr<core::MemoryRegion> native = take();
}

py::object MemoryRegion::forget() {
    segment_ = {};
    exporter_ = nullptr;
    return std::exchange(array_, py::object());
}

core::Segment MemoryRegion::whole() const {
    static_cast<void>(get());
    if (!is_registered()) {
        raise(Status::invalid_device_request, "the memory region is not registered",
              "call register(array, access) first");
    }
    return segment_;
}

py::object MemoryRegion::remote() const {
    const core::Segment all = whole();
    const core::Tokens tokens = get().tokens();
    if (tokens.remote == 0) {
        raise(Status::access_denied,
              "remote: the memory region grants no remote right, so it has no remote token",
              "register it with Access.REMOTE_READ or Access.REMOTE_WRITE");
    }
    // Arrays tell their type and shape; other buffers are bytes.
    const bool is_array = py::hasattr(array_, "dtype") && py::hasattr(array_, "shape");
    return make_remote_buffer(all.address, tokens.remote, all.length,
                              is_array ? py::object(array_.attr("dtype")) : py::none(),
                              is_array ? py::object(array_.attr("shape")) : py::none(),
                              get().rights());
}

py::object MemoryRegion::array() const {
    static_cast<void>(whole());
    return array_;
}

namespace {

std::tuple<std::uint64_t, std::uint64_t, std::uint32_t> fields(const core::Segment& segment) {
    return {segment.address, segment.length, segment.token};
}

void bind_segment(py::module_& module) {
    py::class_<core::Segment>(module, "Segment", py::is_final())
        .def(py::init([](std::uint64_t address, std::uint64_t length, std::uint32_t token) {
                 return core::Segment{address, length, token};
             }),
             py::arg("address"), py::arg("length"), py::arg("token"))
        .def_readonly("address", &core::Segment::address)
        .def_readonly("length", &core::Segment::length)
        .def_readonly("token", &core::Segment::token)
        .def(
            "__eq__",
            [](const core::Segment& self, const core::Segment& other) {
                return fields(self) == fields(other);
            },
            py::is_operator())
        .def("__hash__", [](const core::Segment& self) { return py::hash(py::cast(fields(self))); })
        .def("__reduce__",
             [](const py::object& self) {
                 return py::make_tuple(py::type::of(self),
                                       fields(self.cast<const core::Segment&>()));
             })
        .def("__repr__", [](const core::Segment& segment) {
            return py::str("Segment(address={:#x}, length={})")
                .format(segment.address, segment.length);
        });
}

void bind_region(py::module_& module) {
    py::class_<MemoryRegion> region(module, "MemoryRegion", py::is_final(),
                                    collected<MemoryRegion>());
    bind_handle(region);
    bind_repr(region, [](const MemoryRegion& self) -> std::string {
        if (!self.is_registered()) {
            return self.is_leaving() ? "in the hand of a process" : "not registered";
        }
        return "of " + std::to_string(self.whole().length) + " bytes, " +
               access_member(self.get().rights()).attr("name").cast<std::string>();
    });
    region.def("register", &MemoryRegion::register_array, py::arg("array"), py::arg("access"))
        .def("deregister", &MemoryRegion::deregister)
        .def_property_readonly("local_token",
                               [](const MemoryRegion& self) { return self.whole().token; })
        .def_property_readonly("remote_token",
                               [](const MemoryRegion& self) {
                                   static_cast<void>(self.whole());
                                   return self.get().tokens().remote;
                               })
        .def_property_readonly("address",
                               [](const MemoryRegion& self) { return self.whole().address; })
        .def_property_readonly("nbytes",
                               [](const MemoryRegion& self) { return self.whole().length; })
        .def_property_readonly("access",
                               [](const MemoryRegion& self) {
                                   static_cast<void>(self.whole());
                                   return access_member(self.get().rights());
                               })
        .def_property_readonly("array", &MemoryRegion::array)
        .def(
            "segment",
            [](const MemoryRegion& self, std::uint64_t offset,
               std::optional<std::uint64_t> nbytes) {
                return part_of(self.whole(), offset, nbytes);
            },
            py::arg("offset") = 0, py::arg("nbytes") = py::none())
        .def("remote", &MemoryRegion::remote);
}

}  // namespace

void bind_memory(py::module_& module) {
    bind_segment(module);
    bind_region(module);
    py::class_<ProtectionDomain> domain(module, "ProtectionDomain", py::is_final());
    bind_handle(domain);
    bind_repr(domain, [](const ProtectionDomain& self) {
        return "of adapter " + self.adapter()->get()->info().name;
    });
    const auto create_mr = [](const ProtectionDomain& self) {
        return std::make_unique<MemoryRegion>(value_or_raise(self.get().create_mr()),
                                              self.adapter());
    };
    domain.def("create_mr", create_mr)
        .def(
            "register",
            [create_mr](const ProtectionDomain& self, const py::object& array,
                        std::uint32_t access) {
                auto made = create_mr(self);
                made->register_array(array, access);
                return made;
            },
            py::arg("array"), py::arg("access") = Access{core::access::kLocalWrite});
    bind_mapping(module, domain);
    bind_shared_receive_queue(module, domain);
    bind_create_qp(domain);
}

}  // namespace ndv::bindings

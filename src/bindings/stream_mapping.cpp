// SPDX-License-Identifier: Apache-2.0
// Memory that the peer of a stream writes to by offset.
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <utility>

#include "bindings/python/errors.hpp"
#include "bindings/python/gil.hpp"
#include "bindings/stream.hpp"

namespace ndv::bindings {
namespace {

std::unique_ptr<StreamTransfer> submit_write(const Stream& self, const py::object& buffer,
                                             std::uint64_t offset) {
    static_cast<void>(self.get());
    auto transfer = transfer_for(buffer.ptr(), false, "riowrite");
    transfer->offset = offset;
    return submit(self, &stream::Stream::submit_send, std::move(transfer));
}

std::uint64_t map(const Stream& self, const py::object& buffer,
                  std::optional<std::uint64_t> offset) {
    static_cast<void>(self.get());
    const auto memory = transfer_for(buffer.ptr(), true, "riomap");
    return value_or_raise(
        self.call_without_gil([&](auto& native) { return native.map(memory, offset); }));
}

void unmap(const Stream& self, const py::object& buffer) {
    static_cast<void>(self.get());
    auto memory = transfer_for(buffer.ptr(), true, "riounmap");
    check_or_raise(self.call_without_gil([&](auto& native) {
        auto outcome = native.unmap(memory->data, memory->length);
        memory = nullptr;  // its export is given back before this returns
        return outcome;
    }));
}

}  // namespace

void bind_stream_mappings(py::class_<Stream>& cls) {
    cls.def("submit_write", submit_write, py::arg("buffer"), py::arg("offset"))
        .def("map", map, py::arg("buffer"), py::arg("offset").none(true))
        .def("unmap", unmap, py::arg("buffer"));
}

}  // namespace ndv::bindings

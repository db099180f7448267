// SPDX-License-Identifier: Apache-2.0
// Causes and bytes as Python objects, and the class that every kind of engine has below it.
#include "end.hpp"

#include "module.hpp"

namespace ndv::testing {

std::span<const std::byte> bytes_of(const py::bytes& data) {
    char* begin = nullptr;
    Py_ssize_t size = 0;
    if (PyBytes_AsStringAndSize(data.ptr(), &begin, &size) != 0) throw py::error_already_set();
    return {reinterpret_cast<const std::byte*>(begin), static_cast<std::size_t>(size)};
}

py::bytes to_bytes(std::span<const std::byte> data) {
    return {reinterpret_cast<const char*>(data.data()), data.size()};
}

py::object cause_of(const Cause& cause) {
    switch (cause.source) {
        case Cause::Source::none:
            break;
        case Cause::Source::local:
            return py::make_tuple("local", cause.code.layer, cause.code.error_type,
                                  cause.code.code);
        case Cause::Source::peer:
            return py::make_tuple("peer", cause.code.layer, cause.code.error_type, cause.code.code);
        case Cause::Source::system:
            return py::make_tuple("system", cause.os_error);
    }
    return py::none();
}

void add_end(py::module_& module) {
    py::class_<PyEnd>(module, "End")
        .def("add_region", &PyEnd::add_region, py::arg("stag"), py::arg("to"), py::arg("offset"),
             py::arg("length"), py::kw_only(), py::arg("remote_read") = false,
             py::arg("remote_write") = false, py::arg("remote_atomic") = false,
             py::arg("is_revocable") = false, py::arg("pd") = 1, py::arg("page") = 0,
             py::arg("is_waiting") = false)
        .def("remove_region",
             [](PyEnd& self, std::uint32_t stag) {
                 return self.surroundings().memory().remove(stag);
             })
        .def("has_region",
             [](PyEnd& self, std::uint32_t stag) { return self.surroundings().memory().has(stag); })
        .def("post_send", &PyEnd::post_send, py::arg("context"), py::arg("ranges"), py::kw_only(),
             py::arg("solicited") = false, py::arg("fenced") = false,
             py::arg("invalidate") = py::none())
        .def("post_write", &PyEnd::post_write, py::arg("context"), py::arg("ranges"),
             py::arg("stag"), py::arg("to"), py::kw_only(), py::arg("fenced") = false,
             py::arg("immediate") = py::none(), py::arg("solicited") = false)
        .def("post_fetch_add", &PyEnd::post_fetch_add, py::arg("context"), py::arg("ranges"),
             py::arg("stag"), py::arg("to"), py::arg("value"), py::kw_only(),
             py::arg("fenced") = false)
        .def("post_compare_swap", &PyEnd::post_compare_swap, py::arg("context"), py::arg("ranges"),
             py::arg("stag"), py::arg("to"), py::arg("expected"), py::arg("replacement"),
             py::kw_only(), py::arg("fenced") = false)
        .def("post_read", &PyEnd::post_read, py::arg("context"), py::arg("ranges"), py::arg("stag"),
             py::arg("to"), py::kw_only(), py::arg("fenced") = false,
             py::arg("invalidate") = py::none())
        .def("post_local", &PyEnd::post_local, py::arg("kind"), py::arg("context"), py::arg("stag"),
             py::kw_only(), py::arg("fenced") = false)
        .def("post_receive", &PyEnd::post_receive, py::arg("context"), py::arg("ranges"))
        .def("begin", &PyEnd::begin, py::arg("now_ns"))
        .def("end", &PyEnd::end)
        .def("completions", &PyEnd::completions)
        .def("events", &PyEnd::events)
        .def("deadline", &PyEnd::deadline)
        .def("read", &PyEnd::read, py::arg("offset"), py::arg("length"))
        .def("write", &PyEnd::write, py::arg("offset"), py::arg("data"))
        .def_property_readonly("arena_size", &PyEnd::arena_size)
        .def("end_of_stream", [](PyEnd& self) { self.stream().handle_end_of_stream(); })
        .def("link_error",
             [](PyEnd& self, int os_error) { self.stream().handle_link_error(os_error); })
        .def("disconnect", [](PyEnd& self) { self.stream().handle_disconnect(); })
        .def("flush", [](PyEnd& self) { self.stream().handle_flush(); })
        .def_property_readonly("wants_read", [](PyEnd& self) { return self.stream().wants_read(); })
        .def_property_readonly("can_resume", [](PyEnd& self) { return self.stream().can_resume(); })
        .def_property_readonly("wants_write",
                               [](PyEnd& self) { return self.stream().wants_write(); })
        .def_property_readonly("is_over", [](PyEnd& self) { return self.stream().is_over(); })
        .def_property_readonly("cause", [](PyEnd& self) { return cause_of(self.stream().cause()); })
        .def_property_readonly("counters", [](PyEnd& self) {
            const StreamCounters& counters = self.stream().counters();
            py::dict out;
            out["fpdus_in"] = counters.fpdus_in;
            out["fpdus_out"] = counters.fpdus_out;
            out["bytes_in"] = counters.bytes_in;
            out["bytes_out"] = counters.bytes_out;
            return out;
        });
}

}  // namespace ndv::testing

// SPDX-License-Identifier: Apache-2.0
// Wire structs of src/iwarp as Python dicts, and the checksum: parse_<struct>(bytes) gives a dict
// of the fields, or a str that says why not; emit_<struct>(**fields) gives bytes. Fields left out
// have the struct's defaults; a misspelt one is a TypeError, one out of range an error too.
#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>

#include "base/crc32c.hpp"
#include "iwarp/ddp.hpp"
#include "iwarp/mpa.hpp"
#include "iwarp/terminate.hpp"
#include "module.hpp"

namespace ndv::testing {
namespace {

namespace py = pybind11;
using namespace ndv::iwarp;

std::span<const std::byte> bytes_of(const py::bytes& data) {
    char* begin = nullptr;
    Py_ssize_t size = 0;
    if (PyBytes_AsStringAndSize(data.ptr(), &begin, &size) != 0) throw py::error_already_set();
    return {reinterpret_cast<const std::byte*>(begin), static_cast<std::size_t>(size)};
}

py::bytes to_bytes(std::span<const std::byte> data) {
    return {reinterpret_cast<const char*>(data.data()), data.size()};
}

// ---- fields: one visitor per struct, used in both directions --------------------------------

template <typename V>
void visit(V&& v, MpaHeader& h) {
    v("kind", h.kind);
    v("markers", h.markers);
    v("crc", h.crc);
    v("reject", h.reject);
    v("enhanced", h.enhanced);
    v("revision", h.revision);
    v("private_data_length", h.private_data_length);
}

template <typename V>
void visit(V&& v, MpaEnhanced& h) {
    v("peer_to_peer", h.peer_to_peer);
    v("rtr_send", h.rtr_send);
    v("rtr_write", h.rtr_write);
    v("rtr_read", h.rtr_read);
    v("ird", h.ird);
    v("ord", h.ord);
}

template <typename V>
void visit(V&& v, Control& h) {
    v("ulpdu_length", h.ulpdu_length);
    v("tagged", h.tagged);
    v("last", h.last);
    v("ddp_version", h.ddp_version);
    v("rdmap_version", h.rdmap_version);
    v("opcode", h.opcode);
}

template <typename V>
void visit(V&& v, TaggedHeader& h) {
    visit(v, h.control);
    v("stag", h.stag);
    v("to", h.to);
}

template <typename V>
void visit(V&& v, UntaggedHeader& h) {
    visit(v, h.control);
    v("invalidate_stag", h.invalidate_stag);
    v("queue_number", h.queue_number);
    v("msn", h.msn);
    v("mo", h.mo);
}

template <typename V>
void visit(V&& v, ReadRequestBody& h) {
    v("sink_stag", h.sink_stag);
    v("sink_to", h.sink_to);
    v("size", h.size);
    v("source_stag", h.source_stag);
    v("source_to", h.source_to);
}

template <typename V>
void visit(V&& v, ImmediateBody& h) {
    v("value", h.value);
    v("rest", h.rest);
}

template <typename V>
void visit(V&& v, AtomicRequestBody& h) {
    v("operation", h.operation);
    v("request_id", h.request_id);
    v("stag", h.stag);
    v("to", h.to);
    v("operand", h.operand);
    v("operand_mask", h.operand_mask);
    v("compare", h.compare);
    v("compare_mask", h.compare_mask);
}

template <typename V>
void visit(V&& v, AtomicResponseBody& h) {
    v("request_id", h.request_id);
    v("value", h.value);
}

struct ToDict {
    py::dict& out;
    template <typename T>
    void operator()(const char* name, T& value) const {
        if constexpr (std::is_same_v<T, MpaKind>) {
            out[name] = value == MpaKind::request ? "request" : "reply";
        } else {
            out[name] = value;
        }
    }
};

class FromDict {
public:
    explicit FromDict(const py::kwargs& in)
        : left_(py::reinterpret_steal<py::dict>(PyDict_Copy(in.ptr()))) {}

    template <typename T>
    void operator()(const char* name, T& value) {
        if (!left_.contains(name)) return;
        const py::object given = take(name);
        if constexpr (std::is_same_v<T, MpaKind>) {
            value = given.cast<std::string>() == "request" ? MpaKind::request : MpaKind::reply;
        } else {
            value = given.cast<T>();
        }
    }
    py::object take(const char* name) {
        py::object given = left_[name];
        PyDict_DelItemString(left_.ptr(), name);
        return given;
    }
    bool has(const char* name) const { return left_.contains(name); }
    void finish() const {
        if (left_.empty()) return;
        throw py::type_error("no such field: " + py::str(left_).cast<std::string>());
    }

private:
    py::dict left_;
};

std::string too_short(std::size_t have, std::size_t need) {
    return "too_short: " + std::to_string(have) + " of " + std::to_string(need) + " bytes";
}

template <typename Struct>
py::object parse(const py::bytes& data) {
    const auto bytes = bytes_of(data);
    if (bytes.size() < Struct::kSize) return py::str(too_short(bytes.size(), Struct::kSize));
    Struct value;
    if constexpr (std::is_same_v<Struct, MpaHeader>) {
        switch (MpaHeader::parse(bytes.first<Struct::kSize>(), value)) {
            case MpaParse::bad_key:
                return py::str("bad_key");
            case MpaParse::bad_length:
                return py::str("bad_length");
            case MpaParse::ok:
                break;
        }
    } else {
        value = Struct::parse(bytes.template first<Struct::kSize>());
    }
    py::dict out;
    visit(ToDict{out}, value);
    return out;
}

template <typename Struct>
py::bytes emit(const py::kwargs& fields) {
    Struct value;
    FromDict from(fields);
    visit(from, value);
    from.finish();
    std::array<std::byte, Struct::kSize> bytes{};
    value.emit(bytes);
    return to_bytes(bytes);
}

py::object parse_terminate(const py::bytes& data, bool before_first_fpdu) {
    TerminateBody body;
    if (!TerminateBody::parse(bytes_of(data), before_first_fpdu, body)) {
        return py::str("too_short for its own flags");
    }
    py::dict out;
    out["layer"] = body.error.layer;
    out["error_type"] = body.error.error_type;
    out["code"] = body.error.code;
    out["has_segment_length"] = body.has_segment_length;
    out["segment_length"] = body.segment_length;
    out["ddp_header"] = to_bytes(std::span(body.ddp_header).first(body.ddp_header_size));
    out["read_request"] = body.has_read_request ? to_bytes(body.read_request) : py::bytes();
    out["swapped"] = body.swapped;
    return out;
}

py::bytes emit_terminate(const py::kwargs& fields) {
    TerminateBody body;
    FromDict from(fields);
    from("layer", body.error.layer);
    from("error_type", body.error.error_type);
    from("code", body.error.code);
    from("has_segment_length", body.has_segment_length);
    from("segment_length", body.segment_length);
    from("swapped", body.swapped);
    if (from.has("ddp_header")) {
        const auto given = from.take("ddp_header").cast<py::bytes>();
        const auto header = bytes_of(given);
        if (header.size() != 0 && header.size() != 14 && header.size() != 18) {
            throw py::value_error("a DDP header has 14 or 18 bytes");
        }
        body.ddp_header_size = static_cast<std::uint8_t>(header.size());
        std::copy(header.begin(), header.end(), body.ddp_header.begin());
    }
    if (from.has("read_request")) {
        const auto given = from.take("read_request").cast<py::bytes>();
        const auto request = bytes_of(given);
        if (request.size() != 0 && request.size() != ReadRequestBody::kSize) {
            throw py::value_error("a Read Request body has 28 bytes");
        }
        body.has_read_request = !request.empty();
        std::copy(request.begin(), request.end(), body.read_request.begin());
    }
    from.finish();
    std::array<std::byte, TerminateBody::kMaxSize> bytes{};
    const std::size_t size = body.emit(bytes);
    return to_bytes(std::span(bytes).first(size));
}

template <typename Struct>
void add_struct(py::module_& module, const std::string& name) {
    module.def(("parse_" + name).c_str(), &parse<Struct>, py::arg("data"));
    module.def(("emit_" + name).c_str(), &emit<Struct>);
    module.attr((name + "_size").c_str()) = Struct::kSize;
}

}  // namespace

void add_wire(py::module_& module) {
    add_struct<MpaHeader>(module, "mpa_header");
    add_struct<MpaEnhanced>(module, "mpa_enhanced");
    add_struct<Control>(module, "control");
    add_struct<TaggedHeader>(module, "tagged_header");
    add_struct<UntaggedHeader>(module, "untagged_header");
    add_struct<ReadRequestBody>(module, "read_request_body");
    add_struct<ImmediateBody>(module, "immediate_body");
    add_struct<AtomicRequestBody>(module, "atomic_request_body");
    add_struct<AtomicResponseBody>(module, "atomic_response_body");
    module.def("parse_terminate_body", &parse_terminate, py::arg("data"),
               py::arg("before_first_fpdu") = false);
    module.def("emit_terminate_body", &emit_terminate);
    module.def("pad_size", &pad_size, py::arg("ulpdu_length"));
    module.def("fpdu_size", &fpdu_size, py::arg("ulpdu_length"));
    module.def(
        "crc32c",
        [](const py::bytes& data, std::uint32_t start) {
            const auto bytes = bytes_of(data);
            return base::crc32c(start, bytes.data(), bytes.size());
        },
        py::arg("data"), py::arg("start") = 0);
    module.def(
        "crc32c_portable",
        [](const py::bytes& data, std::uint32_t start) {
            const auto bytes = bytes_of(data);
            return base::crc32c_portable(start, bytes.data(), bytes.size());
        },
        py::arg("data"), py::arg("start") = 0);
}

}  // namespace ndv::testing

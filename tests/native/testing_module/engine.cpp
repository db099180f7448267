// SPDX-License-Identifier: Apache-2.0
// The protocol engine and the start-up as Python objects: bytes and a time go in, bytes and dicts
// come out. tests/engine/pair.py joins two of them by byte pipes in virtual time.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "../engine_fixture.hpp"
#include "iwarp/connection.hpp"
#include "iwarp/handshake.hpp"
#include "module.hpp"

namespace ndv::testing {
namespace {

namespace py = pybind11;
using namespace ndv::iwarp;

constexpr std::size_t kNoLimit = std::numeric_limits<std::size_t>::max();
using Ranges = std::vector<std::pair<std::size_t, std::uint32_t>>;  // offset, length

std::span<const std::byte> bytes_of(const py::bytes& data) {
    char* begin = nullptr;
    Py_ssize_t size = 0;
    if (PyBytes_AsStringAndSize(data.ptr(), &begin, &size) != 0) throw py::error_already_set();
    return {reinterpret_cast<const std::byte*>(begin), static_cast<std::size_t>(size)};
}

py::bytes to_bytes(std::span<const std::byte> data) {
    return {reinterpret_cast<const char*>(data.data()), data.size()};
}

RtrKind rtr_of(const std::string& name) {
    if (name == "send") return RtrKind::send;
    if (name == "write") return RtrKind::write;
    if (name == "read") return RtrKind::read;
    if (name == "none") return RtrKind::none;
    throw py::value_error("no such RTR kind: " + name);
}

const char* rtr_name(RtrKind kind) {
    switch (kind) {
        case RtrKind::none:
            return "none";
        case RtrKind::send:
            return "send";
        case RtrKind::write:
            return "write";
        case RtrKind::read:
            return "read";
    }
    return "?";
}

// None, or a tuple: ("local" | "peer", layer, error type, code), ("system", errno).
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

// ---- the engine -----------------------------------------------------------------------------

class PyEngine {
public:
    PyEngine(const ConnectionConfig& config, const EngineLimits& limits) {
        engine_ = std::make_unique<Engine>(config, limits);
    }

    void add_region(std::uint32_t stag, std::uint64_t to, std::size_t offset, std::uint64_t length,
                    bool remote_read, bool remote_write, bool remote_atomic, bool is_revocable,
                    std::uint32_t pd, std::uint32_t page, bool is_waiting) {
        check_range(offset, length);
        if (page != 0 && length % page != 0) throw py::value_error("not whole pages");
        const FakeMemory::Region region{stag,         to,          engine_->arena().data() + offset,
                                        length,       remote_read, remote_write,
                                        is_revocable, pd,          page,
                                        remote_atomic};
        is_waiting ? engine_->memory().prepare(region) : engine_->memory().add(region);
    }
    // A bind, fast_register or invalidate: the first two make what add_region() left waiting.
    bool post_local(const std::string& kind, std::uint64_t context, std::uint32_t stag,
                    bool fenced) {
        SendRequest request;
        request.kind = kind == "bind"            ? RequestKind::bind
                       : kind == "fast_register" ? RequestKind::fast_register
                                                 : RequestKind::invalidate;
        request.context = context;
        request.local_token = stag;
        request.is_fenced = fenced;
        return engine_->post(request, {});
    }

    bool post_send(std::uint64_t context, const Ranges& ranges, bool solicited, bool fenced,
                   std::optional<std::uint32_t> invalidate) {
        SendRequest request;
        request.kind = RequestKind::send;
        request.context = context;
        request.solicits = solicited;
        request.is_fenced = fenced;
        request.invalidates = invalidate.has_value();
        request.remote_token = invalidate.value_or(0);
        return engine_->post(request, checked(ranges));
    }
    bool post_write(std::uint64_t context, const Ranges& ranges, std::uint32_t stag,
                    std::uint64_t to, bool fenced, std::optional<std::uint32_t> immediate,
                    bool solicited) {
        SendRequest request;
        request.kind = immediate ? RequestKind::write_immediate : RequestKind::write;
        request.operand = immediate.value_or(0);
        request.solicits = solicited;
        return post_remote(request, context, ranges, stag, to, fenced);
    }
    bool post_fetch_add(std::uint64_t context, const Ranges& ranges, std::uint32_t stag,
                        std::uint64_t to, std::uint64_t value, bool fenced) {
        SendRequest request;
        request.kind = RequestKind::fetch_add;
        request.operand = value;
        return post_remote(request, context, ranges, stag, to, fenced);
    }
    bool post_compare_swap(std::uint64_t context, const Ranges& ranges, std::uint32_t stag,
                           std::uint64_t to, std::uint64_t expected, std::uint64_t replacement,
                           bool fenced) {
        SendRequest request;
        request.kind = RequestKind::compare_swap;
        request.operand = replacement;
        request.compare = expected;
        return post_remote(request, context, ranges, stag, to, fenced);
    }
    bool post_read(std::uint64_t context, const Ranges& ranges, std::uint32_t stag,
                   std::uint64_t to, bool fenced, std::optional<std::uint32_t> invalidate) {
        SendRequest request;
        request.kind = RequestKind::read;
        request.invalidates = invalidate.has_value();
        request.local_token = invalidate.value_or(0);
        return post_remote(request, context, ranges, stag, to, fenced);
    }
    bool post_receive(std::uint64_t context, const Ranges& ranges) {
        return engine_->post_receive(context, checked(ranges));
    }

    void begin(std::int64_t now_ns) {
        now_ = Time(now_ns);
        engine_->connection().begin_step(now_);
    }
    void end() {
        engine_->connection().end_step();
        // The promise of end_step(): deregistration waits for a step, never longer.
        if (engine_->memory().pins() != 0) throw std::runtime_error("end_step() kept a pin");
    }
    py::bytes transmit(std::optional<std::size_t> limit, std::size_t pieces, std::size_t budget,
                       const py::object& meddle) {
        return to_bytes(engine_->transmit(limit.value_or(kNoLimit), pieces, budget, [&] {
            if (!meddle.is_none()) meddle();
        }));
    }
    std::size_t receive(const py::bytes& data, std::optional<std::size_t> read_size,
                        std::size_t pieces, std::size_t budget) {
        return engine_->receive(bytes_of(data), read_size.value_or(kNoLimit), pieces, budget, now_);
    }

    py::list completions() {
        py::list out;
        StreamCompletion completion;
        while (connection().poll_completion(completion)) {
            py::dict entry;
            entry["is_receive"] = completion.is_receive;
            entry["status"] = std::string(status_name(completion.status));
            entry["cause"] = cause_of(completion.cause);
            if (completion.is_receive) {
                const ReceiveRequest& request = engine_->receive_queue()[completion.position];
                entry["context"] = request.context;
                entry["received"] = request.received;
                entry["is_solicited"] = request.is_solicited;
                entry["immediate"] = request.has_immediate ? py::object(py::int_(request.immediate))
                                                           : py::object(py::none());
                entry["invalidated"] = request.has_invalidated
                                           ? py::object(py::int_(request.invalidated_stag))
                                           : py::object(py::none());
            } else {
                entry["context"] = engine_->send_queue()[completion.position].context;
            }
            connection().retire(completion);
            out.append(entry);
        }
        return out;
    }
    py::set events() {
        const StreamEvents events = connection().take_events();
        py::set out;
        if (events.first_fpdu) out.add("first_fpdu");
        if (events.peer_closed) out.add("peer_closed");
        if (events.drained) out.add("drained");
        if (events.over) out.add("over");
        return out;
    }
    std::optional<std::int64_t> deadline() {
        const auto deadline = connection().poll_deadline();
        if (!deadline) return std::nullopt;
        return deadline->count();
    }

    py::bytes read(std::size_t offset, std::size_t length) {
        check_range(offset, length);
        return to_bytes(engine_->arena().subspan(offset, length));
    }
    void write(std::size_t offset, const py::bytes& data) {
        const auto bytes = bytes_of(data);
        check_range(offset, bytes.size());
        std::copy(bytes.begin(), bytes.end(),
                  engine_->arena().begin() + static_cast<std::ptrdiff_t>(offset));
    }
    [[nodiscard]] std::size_t arena_size() { return engine_->arena().size(); }

    Engine& engine() { return *engine_; }
    Connection& connection() { return engine_->connection(); }

private:
    void check_range(std::size_t offset, std::uint64_t length) {
        const std::size_t size = engine_->arena().size();
        if (offset > size || length > size - offset) {
            throw py::index_error("the range leaves the arena");
        }
    }
    std::vector<Range> checked(const Ranges& ranges) {
        std::vector<Range> out;
        for (const auto& [offset, length] : ranges) {
            check_range(offset, length);
            out.push_back({offset, length});
        }
        if (out.size() > kMaxRanges) throw py::index_error("too many segments");
        return out;
    }
    bool post_remote(SendRequest& request, std::uint64_t context, const Ranges& ranges,
                     std::uint32_t stag, std::uint64_t to, bool fenced) {
        request.context = context;
        request.remote_token = stag;
        request.remote_address = to;
        request.is_fenced = fenced;
        return engine_->post(request, checked(ranges));
    }

    static constexpr std::size_t kMaxRanges = EngineLimits{}.max_segments;
    std::unique_ptr<Engine> engine_;
    Time now_{};
};

std::unique_ptr<PyEngine> make_engine(bool is_initiator, bool crc, const std::string& rtr,
                                      std::uint16_t ird, std::uint16_t ord, std::uint32_t max_fpdu,
                                      std::int64_t receive_wait_ns, std::int64_t terminate_wait_ns,
                                      std::uint64_t seed, bool wakes_peer, std::uint32_t send_depth,
                                      std::uint32_t receive_depth, std::size_t arena_size,
                                      std::uint32_t start_position) {
    ConnectionConfig config;
    config.is_initiator = is_initiator;
    config.crc = crc;
    config.rtr = rtr_of(rtr);
    config.ird = ird;
    config.ord = ord;
    config.max_fpdu = max_fpdu;
    config.receive_wait = Time(receive_wait_ns);
    config.terminate_wait = Time(terminate_wait_ns);
    config.seed = seed;
    config.wakes_peer = wakes_peer;
    EngineLimits limits;
    limits.send_depth = send_depth;
    limits.receive_depth = receive_depth;
    limits.arena_size = arena_size;
    limits.start_position = start_position;
    return std::make_unique<PyEngine>(config, limits);
}

void add_engine_class(py::module_& module) {
    constexpr std::size_t kPieces = 64;
    constexpr std::size_t kBudget = std::size_t{1} << 20;
    py::class_<PyEngine>(module, "Engine")
        .def(py::init(&make_engine), py::kw_only(), py::arg("is_initiator"), py::arg("crc") = false,
             py::arg("rtr") = "none", py::arg("ird") = 16, py::arg("ord") = 16,
             py::arg("max_fpdu") = 65480, py::arg("receive_wait_ns") = 5'000'000'000,
             py::arg("terminate_wait_ns") = 1'000'000'000, py::arg("seed") = 1,
             py::arg("wakes_peer") = false, py::arg("send_depth") = 64,
             py::arg("receive_depth") = 64, py::arg("arena_size") = 64 * 1024,
             py::arg("start_position") = 0)
        .def("add_region", &PyEngine::add_region, py::arg("stag"), py::arg("to"), py::arg("offset"),
             py::arg("length"), py::kw_only(), py::arg("remote_read") = false,
             py::arg("remote_write") = false, py::arg("remote_atomic") = false,
             py::arg("is_revocable") = false, py::arg("pd") = 1, py::arg("page") = 0,
             py::arg("is_waiting") = false)
        .def("remove_region",
             [](PyEngine& self, std::uint32_t stag) { return self.engine().memory().remove(stag); })
        .def("has_region",
             [](PyEngine& self, std::uint32_t stag) { return self.engine().memory().has(stag); })
        .def("post_send", &PyEngine::post_send, py::arg("context"), py::arg("ranges"),
             py::kw_only(), py::arg("solicited") = false, py::arg("fenced") = false,
             py::arg("invalidate") = py::none())
        .def("post_write", &PyEngine::post_write, py::arg("context"), py::arg("ranges"),
             py::arg("stag"), py::arg("to"), py::kw_only(), py::arg("fenced") = false,
             py::arg("immediate") = py::none(), py::arg("solicited") = false)
        .def("post_fetch_add", &PyEngine::post_fetch_add, py::arg("context"), py::arg("ranges"),
             py::arg("stag"), py::arg("to"), py::arg("value"), py::kw_only(),
             py::arg("fenced") = false)
        .def("post_compare_swap", &PyEngine::post_compare_swap, py::arg("context"),
             py::arg("ranges"), py::arg("stag"), py::arg("to"), py::arg("expected"),
             py::arg("replacement"), py::kw_only(), py::arg("fenced") = false)
        .def("post_read", &PyEngine::post_read, py::arg("context"), py::arg("ranges"),
             py::arg("stag"), py::arg("to"), py::kw_only(), py::arg("fenced") = false,
             py::arg("invalidate") = py::none())
        .def("post_local", &PyEngine::post_local, py::arg("kind"), py::arg("context"),
             py::arg("stag"), py::kw_only(), py::arg("fenced") = false)
        .def("post_receive", &PyEngine::post_receive, py::arg("context"), py::arg("ranges"))
        .def("begin", &PyEngine::begin, py::arg("now_ns"))
        .def("end", &PyEngine::end)
        .def("transmit", &PyEngine::transmit, py::arg("limit") = py::none(), py::kw_only(),
             py::arg("pieces") = kPieces, py::arg("budget") = kBudget,
             py::arg("meddle") = py::none())
        .def("receive", &PyEngine::receive, py::arg("data"), py::arg("read_size") = py::none(),
             py::kw_only(), py::arg("pieces") = kPieces, py::arg("budget") = kBudget)
        .def("completions", &PyEngine::completions)
        .def("events", &PyEngine::events)
        .def("deadline", &PyEngine::deadline)
        .def("read", &PyEngine::read, py::arg("offset"), py::arg("length"))
        .def("write", &PyEngine::write, py::arg("offset"), py::arg("data"))
        .def_property_readonly("arena_size", &PyEngine::arena_size)
        .def("end_of_stream", [](PyEngine& self) { self.connection().handle_end_of_stream(); })
        .def("link_error",
             [](PyEngine& self, int os_error) { self.connection().handle_link_error(os_error); })
        .def("disconnect", [](PyEngine& self) { self.connection().handle_disconnect(); })
        .def("flush", [](PyEngine& self) { self.connection().handle_flush(); })
        .def("release_hold", [](PyEngine& self) { self.connection().release_hold(); })
        .def("set_max_fpdu",
             [](PyEngine& self, std::uint32_t bytes) { self.connection().set_max_fpdu(bytes); })
        .def("has_large_backlog",
             [](PyEngine& self, std::size_t threshold) {
                 return self.connection().has_large_backlog(threshold);
             })
        .def_property_readonly("wants_read",
                               [](PyEngine& self) { return self.connection().wants_read(); })
        .def_property_readonly("can_resume",
                               [](PyEngine& self) { return self.connection().can_resume(); })
        .def_property_readonly("wants_write",
                               [](PyEngine& self) { return self.connection().wants_write(); })
        .def_property_readonly("is_over",
                               [](PyEngine& self) { return self.connection().is_over(); })
        .def_property_readonly("is_held",
                               [](PyEngine& self) { return self.connection().is_held(); })
        .def_property_readonly("cause",
                               [](PyEngine& self) { return cause_of(self.connection().cause()); })
        .def_property_readonly("counters", [](PyEngine& self) {
            const StreamCounters& counters = self.connection().counters();
            py::dict out;
            out["fpdus_in"] = counters.fpdus_in;
            out["fpdus_out"] = counters.fpdus_out;
            out["bytes_in"] = counters.bytes_in;
            out["bytes_out"] = counters.bytes_out;
            return out;
        });
}

// ---- the start-up ---------------------------------------------------------------------------

const char* outcome_name(Handshake::Outcome outcome) {
    switch (outcome) {
        case Handshake::Outcome::pending:
            return "pending";
        case Handshake::Outcome::request_received:
            return "request_received";
        case Handshake::Outcome::agreed:
            return "agreed";
        case Handshake::Outcome::refused:
            return "refused";
        case Handshake::Outcome::rejected:
            return "rejected";
        case Handshake::Outcome::bad_frame:
            return "bad_frame";
        case Handshake::Outcome::bad_revision:
            return "bad_revision";
        case Handshake::Outcome::markers_refused:
            return "markers_refused";
        case Handshake::Outcome::insufficient_ird:
            return "insufficient_ird";
        case Handshake::Outcome::no_common_rtr:
            return "no_common_rtr";
    }
    return "?";
}

HandshakeOffer offer_of(std::uint16_t ird, std::uint16_t ord, bool crc, bool peer_to_peer,
                        std::uint8_t revision, const py::bytes& private_data) {
    HandshakeOffer offer;
    offer.ird = ird;
    offer.ord = ord;
    offer.crc = crc;
    offer.peer_to_peer = peer_to_peer;
    offer.revision = revision;
    offer.private_data = bytes_of(private_data);
    return offer;
}

void add_handshake_class(py::module_& module) {
    py::class_<Handshake>(module, "Handshake")
        .def_static(
            "initiator",
            [](std::uint16_t ird, std::uint16_t ord, bool crc, bool peer_to_peer,
               std::uint8_t revision, const py::bytes& private_data) {
                return Handshake::initiator(
                    offer_of(ird, ord, crc, peer_to_peer, revision, private_data));
            },
            py::kw_only(), py::arg("ird") = 16, py::arg("ord") = 16, py::arg("crc") = false,
            py::arg("peer_to_peer") = false, py::arg("revision") = 2,
            py::arg("private_data") = py::bytes())
        .def_static("responder", &Handshake::responder)
        .def(
            "transmit",
            [](Handshake& self, std::optional<std::size_t> limit) {
                const auto waiting = self.poll_transmit();
                const auto taken =
                    waiting.first(std::min(waiting.size(), limit.value_or(kNoLimit)));
                const py::bytes out = to_bytes(taken);
                if (!taken.empty()) self.handle_sent(taken.size());
                return out;
            },
            py::arg("limit") = py::none())
        .def(
            "receive",
            [](Handshake& self, const py::bytes& data, std::optional<std::size_t> read_size) {
                const auto bytes = bytes_of(data);
                std::size_t done = 0;
                while (done < bytes.size()) {
                    const auto room = self.poll_receive();
                    const std::size_t size =
                        std::min({room.size(), bytes.size() - done, read_size.value_or(kNoLimit)});
                    if (size == 0) break;
                    std::memcpy(room.data(), bytes.data() + done, size);
                    self.handle_received(size);
                    done += size;
                }
                return done;
            },
            py::arg("data"), py::arg("read_size") = py::none())
        .def_property_readonly("wanted", [](Handshake& self) { return self.poll_receive().size(); })
        .def_property_readonly("outcome",
                               [](const Handshake& self) { return outcome_name(self.outcome()); })
        .def_property_readonly("private_data",
                               [](const Handshake& self) { return to_bytes(self.private_data()); })
        .def_property_readonly("peer_ird", &Handshake::peer_ird)
        .def_property_readonly("peer_ord", &Handshake::peer_ord)
        .def_property_readonly("agreement",
                               [](const Handshake& self) {
                                   const Agreement& agreed = self.agreement();
                                   py::dict out;
                                   out["crc"] = agreed.crc;
                                   out["rtr"] = rtr_name(agreed.rtr);
                                   out["ird"] = agreed.ird;
                                   out["ord"] = agreed.ord;
                                   out["revision"] = agreed.revision;
                                   out["enhanced"] = agreed.enhanced;
                                   return out;
                               })
        .def(
            "accept",
            [](Handshake& self, std::uint16_t ird, std::uint16_t ord, bool crc,
               const py::bytes& private_data) {
                return self.accept(offer_of(ird, ord, crc, false, 2, private_data));
            },
            py::kw_only(), py::arg("ird") = 16, py::arg("ord") = 16, py::arg("crc") = false,
            py::arg("private_data") = py::bytes())
        .def(
            "reject",
            [](Handshake& self, const py::bytes& private_data) {
                return self.reject(bytes_of(private_data));
            },
            py::arg("private_data") = py::bytes());
}

}  // namespace

void add_engine(py::module_& module) {
    add_engine_class(module);
    add_handshake_class(module);
}

}  // namespace ndv::testing

// SPDX-License-Identifier: Apache-2.0
// The protocol engines and the start-up as Python objects: bytes and a time go in, bytes and dicts
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

#include "end.hpp"
#include "iwarp/connection.hpp"
#include "iwarp/handshake.hpp"
#include "module.hpp"

namespace ndv::testing {
namespace {

constexpr std::size_t kNoLimit = std::numeric_limits<std::size_t>::max();

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

// ---- the engine -----------------------------------------------------------------------------

// An engine over a link that is made of bytes.
class PyEngine final : public PyEnd {
public:
    explicit PyEngine(std::unique_ptr<Engine> made)
        : PyEnd(*made, made->connection()), engine_(std::move(made)) {}

    py::bytes transmit(std::optional<std::size_t> limit, std::size_t pieces, std::size_t budget,
                       const py::object& meddle) {
        return to_bytes(engine().transmit(limit.value_or(kNoLimit), pieces, budget, [&] {
            if (!meddle.is_none()) meddle();
        }));
    }
    std::size_t receive(const py::bytes& data, std::optional<std::size_t> read_size,
                        std::size_t pieces, std::size_t budget) {
        return engine().receive(bytes_of(data), read_size.value_or(kNoLimit), pieces, budget,
                                now());
    }

    Engine& engine() { return *engine_; }
    Connection& connection() { return engine_->connection(); }

private:
    const std::unique_ptr<Engine> engine_;
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
    return std::make_unique<PyEngine>(std::make_unique<Engine>(config, limits));
}

void add_engine_class(py::module_& module) {
    constexpr std::size_t kPieces = 64;
    constexpr std::size_t kBudget = std::size_t{1} << 20;
    py::class_<PyEngine, PyEnd>(module, "Engine")
        .def(py::init(&make_engine), py::kw_only(), py::arg("is_initiator"), py::arg("crc") = false,
             py::arg("rtr") = "none", py::arg("ird") = 16, py::arg("ord") = 16,
             py::arg("max_fpdu") = 65480, py::arg("receive_wait_ns") = 5'000'000'000,
             py::arg("terminate_wait_ns") = 1'000'000'000, py::arg("seed") = 1,
             py::arg("wakes_peer") = false, py::arg("send_depth") = 64,
             py::arg("receive_depth") = 64, py::arg("arena_size") = 64 * 1024,
             py::arg("start_position") = 0)
        .def("transmit", &PyEngine::transmit, py::arg("limit") = py::none(), py::kw_only(),
             py::arg("pieces") = kPieces, py::arg("budget") = kBudget,
             py::arg("meddle") = py::none())
        .def("receive", &PyEngine::receive, py::arg("data"), py::arg("read_size") = py::none(),
             py::kw_only(), py::arg("pieces") = kPieces, py::arg("budget") = kBudget)
        .def("release_hold", [](PyEngine& self) { self.connection().release_hold(); })
        .def("set_max_fpdu",
             [](PyEngine& self, std::uint32_t bytes) { self.connection().set_max_fpdu(bytes); })
        .def("has_large_backlog",
             [](PyEngine& self, std::size_t threshold) {
                 return self.connection().has_large_backlog(threshold);
             })
        .def_property_readonly("is_held",
                               [](PyEngine& self) { return self.connection().is_held(); });
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

// SPDX-License-Identifier: Apache-2.0
// Connector: connect, complete_connect, accept, reject, disconnect. A blocking call is its start,
// then a wait that abandons what it interrupts.
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>

#include "bindings/connection.hpp"
#include "bindings/module.hpp"
#include "bindings/python/arguments.hpp"
#include "bindings/python/collected.hpp"
#include "bindings/python/errors.hpp"
#include "bindings/queue_pair.hpp"

namespace ndv::bindings {
namespace {

// core ends an attempt at its timeout and knows best what it was waiting for; this long after it
// the binding gives up by itself.
constexpr double kGrace_s = 0.25;

std::optional<double> with_grace(std::optional<double> timeout) {
    return timeout ? std::optional(*timeout + kGrace_s) : std::nullopt;
}

// Runs `start` without the GIL.
template <typename Start>
std::unique_ptr<Operation> begin(const Connector& self, Start start) {
    const auto native = self.share();
    return std::make_unique<Operation>(value_or_raise(self.call_without_gil(start)), self.adapter(),
                                       [connector = std::weak_ptr(native)] {
                                           if (const auto alive = connector.lock())
                                               alive->abandon();
                                       });
}

// The same for `start`, which gets `function` as what the callback thread runs. The native
// connector drops it on any thread.
template <typename Start>
std::unique_ptr<Operation> begin(Connector& self, const py::object& function, Start start) {
    std::shared_ptr<SharedObject> shared;
    core::Connector::OnDisconnect on_disconnect;
    if (!function.is_none()) {
        shared = SharedObject::function(function, "on_disconnect");
        on_disconnect =
            queued(self.adapter()->with_callbacks(), shared, [] { return py::object(); });
    }
    auto begun = begin(
        self, [&](core::Connector& native) { return start(native, std::move(on_disconnect)); });
    // A call that was refused leaves the function of the one before.
    if (shared != nullptr) self.set_calls({shared});
    return begun;
}

std::shared_ptr<core::QueuePair> queue_pair_of(const Connector& self, const QueuePair& qp) {
    if (qp.adapter() != self.adapter()) {
        raise(Status::invalid_parameter, "the queue pair belongs to another adapter",
              "use a connector of the adapter that created the queue pair");
    }
    return qp.share();
}

std::unique_ptr<Operation> start_complete_connect(Connector& self, const py::object& function) {
    static_cast<void>(self.get());  // a closed one makes no callback
    return begin(self, function,
                 [](core::Connector& native, core::Connector::OnDisconnect on_disconnect) {
                     return native.start_complete_connect(std::move(on_disconnect));
                 });
}

std::unique_ptr<Operation> start_disconnect(const Connector& self, std::optional<double> timeout) {
    static_cast<void>(self.get());
    const auto duration = timeout_duration(timeout);
    return begin(self,
                 [duration](core::Connector& native) { return native.start_disconnect(duration); });
}

void reject(const Connector& self, const py::object& private_data) {
    auto data = to_bytes(private_data, "private_data");
    check_or_raise(
        self.call_without_gil([&](auto& native) { return native.reject(std::move(data)); }));
}

std::string describe(const Connector& self) {
    const core::Connector& native = self.get();
    std::string text = core::connector_state_name(native.state());
    if (auto address = native.local_address()) text += " local " + address->text();
    if (auto address = native.peer_address()) text += " peer " + address->text();
    return text;
}

// What takes the operation that was begun: a blocking call waits for it, a coroutine gets it.
auto waits(const char* call) {
    return [call](std::unique_ptr<Operation> begun, std::optional<double> timeout) {
        begun->wait_or_abandon(with_grace(timeout), call);
    };
}
std::unique_ptr<Operation> hands_over(std::unique_ptr<Operation> begun, std::optional<double>) {
    return begun;
}

// The one list of what connect takes. `from` names the parameter that is None, an address, or a
// SharedEndpoint.
template <typename Take>
void def_connect(py::class_<Connector>& cls, const char* name, const char* from, Take take) {
    cls.def(
        name,
        [from, take](const Connector& self, const QueuePair& qp, const py::object& local,
                     const py::object& peer, std::uint32_t inbound_read_limit,
                     std::uint32_t outbound_read_limit, const py::object& private_data,
                     std::optional<double> timeout, std::optional<bool> crc, bool peer_to_peer) {
            core::ConnectParameters parameters;
            if (std::string_view(from) == "endpoint" && !py::isinstance<SharedEndpoint>(local)) {
                throw py::type_error("endpoint must be a SharedEndpoint");
            }
            set_source(parameters, local);
            parameters.peer = resolve_address(peer);
            parameters.inbound_read_limit = inbound_read_limit;
            parameters.outbound_read_limit = outbound_read_limit;
            parameters.private_data = to_bytes(private_data, "private_data");
            parameters.timeout = timeout_duration(timeout);
            parameters.crc = crc;
            parameters.peer_to_peer = peer_to_peer;
            auto queue_pair = queue_pair_of(self, qp);
            return take(begin(self,
                              [&](core::Connector& native) {
                                  return native.start_connect(std::move(queue_pair),
                                                              std::move(parameters));
                              }),
                        timeout);
        },
        py::arg("qp"), py::arg(from).none(true), py::arg("peer"), py::kw_only(),
        py::arg("inbound_read_limit") = 16, py::arg("outbound_read_limit") = 16,
        py::arg("private_data") = py::bytes(), py::arg("timeout") = 10.0,
        py::arg("crc") = py::none(), py::arg("peer_to_peer") = false);
}

// The one list of what accept takes.
template <typename Take>
void def_accept(py::class_<Connector>& cls, const char* name, Take take) {
    cls.def(
        name,
        [take](Connector& self, const QueuePair& qp, std::uint32_t inbound_read_limit,
               std::uint32_t outbound_read_limit, const py::object& private_data,
               const py::object& function, std::optional<double> timeout, std::optional<bool> crc) {
            static_cast<void>(self.get());
            core::ConnectParameters parameters;
            parameters.inbound_read_limit = inbound_read_limit;
            parameters.outbound_read_limit = outbound_read_limit;
            parameters.private_data = to_bytes(private_data, "private_data");
            parameters.timeout = timeout_duration(timeout);
            parameters.crc = crc;
            auto queue_pair = queue_pair_of(self, qp);
            return take(
                begin(self, function,
                      [&](core::Connector& native, core::Connector::OnDisconnect on_disconnect) {
                          return native.start_accept(std::move(queue_pair), std::move(parameters),
                                                     std::move(on_disconnect));
                      }),
                timeout);
        },
        py::arg("qp"), py::kw_only(), py::arg("inbound_read_limit") = 16,
        py::arg("outbound_read_limit") = 16, py::arg("private_data") = py::bytes(),
        py::arg("on_disconnect") = py::none(), py::arg("timeout") = 60.0,
        py::arg("crc") = py::none());
}

void bind_calls(py::class_<Connector>& cls) {
    def_connect(cls, "connect", "local", waits("connect"));
    def_connect(cls, "connect_with_shared_endpoint", "endpoint", waits("connect"));
    def_connect(cls, "_start_connect", "local", hands_over);
    def_accept(cls, "accept", waits("accept"));
    def_accept(cls, "_start_accept", hands_over);
    cls.def(
           "complete_connect",
           [](Connector& self, const py::object& function, std::optional<double> timeout) {
               start_complete_connect(self, function)->wait_or_abandon(timeout, "complete_connect");
           },
           py::arg("on_disconnect") = py::none(), py::kw_only(), py::arg("timeout") = 10.0)
        .def("_start_complete_connect", start_complete_connect,
             py::arg("on_disconnect") = py::none())
        .def("reject", reject, py::arg("private_data") = py::bytes())
        .def(
            "disconnect",
            [](const Connector& self, std::optional<double> timeout) {
                start_disconnect(self, timeout)->wait(with_grace(timeout), "disconnect");
            },
            py::arg("timeout") = 5.0)
        .def("_start_disconnect", start_disconnect, py::arg("timeout") = 5.0);
}

auto fields(const core::ConnectionData& data) {
    return std::tie(data.inbound_read_limit, data.outbound_read_limit, data.private_data);
}

py::bytes private_data_of(const core::ConnectionData& data) {
    return {reinterpret_cast<const char*>(data.private_data.data()), data.private_data.size()};
}

// What makes it again.
py::tuple state_of(const core::ConnectionData& data) {
    return py::make_tuple(data.inbound_read_limit, data.outbound_read_limit, private_data_of(data));
}

void bind_data(py::module_& module) {
    using core::ConnectionData;
    py::class_<ConnectionData>(module, "ConnectionData", py::is_final())
        .def_readonly("inbound_read_limit", &ConnectionData::inbound_read_limit)
        .def_readonly("outbound_read_limit", &ConnectionData::outbound_read_limit)
        .def_property_readonly("private_data", private_data_of)
        .def(
            "__eq__",
            [](const ConnectionData& self, const ConnectionData& other) {
                return fields(self) == fields(other);
            },
            py::is_operator())
        .def("__hash__", [](const ConnectionData& self) { return py::hash(state_of(self)); })
        .def(py::pickle(&state_of,
                        [](const py::tuple& state) {
                            return ConnectionData{state[0].cast<std::uint32_t>(),
                                                  state[1].cast<std::uint32_t>(),
                                                  to_bytes(state[2], "private_data")};
                        }))
        .def("__repr__", [](const ConnectionData& self) {
            return "ConnectionData(inbound_read_limit=" + std::to_string(self.inbound_read_limit) +
                   ", outbound_read_limit=" + std::to_string(self.outbound_read_limit) + ", " +
                   std::to_string(self.private_data.size()) + " bytes of private data)";
        });
}

}  // namespace

py::tuple to_pair(const core::SocketAddress& address) {
    if (address.length == 0) return py::make_tuple("", 0);
    return py::make_tuple(address.host(), address.port());
}

void set_source(core::ConnectParameters& parameters, const py::object& source) {
    if (py::isinstance<SharedEndpoint>(source)) {
        parameters.endpoint = source.cast<const SharedEndpoint&>().share();
    } else if (!source.is_none()) {
        parameters.local = resolve_address(source);
    }
}

core::SocketAddress resolve_address(const py::object& address) {
    // Resolving names may block; socket.getaddrinfo gives the GIL up itself.
    const py::object resolve = py::module_::import("ndverbs._address").attr("resolve");
    const auto [host, port] = resolve(address).cast<std::pair<std::string, std::uint16_t>>();
    return value_or_raise(core::SocketAddress::parse(host, port));
}

void bind_connector(py::module_& module) {
    bind_data(module);

    py::class_<SharedEndpoint> endpoint(module, "SharedEndpoint", py::is_final());
    bind_handle(endpoint);
    bind_repr(endpoint,
              [](const SharedEndpoint& self) { return self.get().local_address().text(); });
    endpoint.def_property_readonly("local_address", [](const SharedEndpoint& self) {
        return to_pair(self.get().local_address());
    });

    py::class_<Connector> cls(module, "Connector", py::is_final(), collected<Connector>());
    bind_handle(cls);
    bind_repr(cls, describe);
    bind_calls(cls);
    cls.def_property_readonly("connection_data", native_call<Connector>(&core::Connector::data))
        .def_property_readonly("local_address",
                               address_of<Connector, &core::Connector::local_address>)
        .def_property_readonly("peer_address",
                               address_of<Connector, &core::Connector::peer_address>)
        .def_property_readonly("transport", native_call<Connector>(&core::Connector::transport))
        .def_property_readonly("transport_reason",
                               native_call<Connector>(&core::Connector::transport_reason))
        .def_property_readonly("state", [](const Connector& self) {
            return core::connector_state_name(self.get().state());
        });
}

}  // namespace ndv::bindings

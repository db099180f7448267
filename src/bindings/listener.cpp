// SPDX-License-Identifier: Apache-2.0
// Listener: connectors by a call, by a callback, or by a coroutine that waits for arrivals.
#include <pybind11/stl.h>

#include <optional>
#include <utility>

#include "bindings/connection.hpp"
#include "bindings/module.hpp"
#include "bindings/python/collected.hpp"
#include "bindings/python/errors.hpp"

namespace ndv::bindings {

namespace {

// None is waiting: null. Errors are the caller's to raise.
using Taken = Expected<std::shared_ptr<core::Connector>>;

// Runs on the callback thread, once per connector.
void deliver(const std::weak_ptr<AdapterState>& state,
             const std::weak_ptr<core::Listener>& listener, const SharedObject& function) {
    const auto adapter = state.lock();
    const auto native = listener.lock();
    if (adapter == nullptr || native == nullptr) return;
    Taken taken =
        without_gil([&] { return native->take_connector(std::chrono::nanoseconds::zero()); });
    // A get_connector() was faster, or the listener is closed.
    if (!taken || *taken == nullptr) return;
    call_and_report(function.get(),
                    py::cast(std::make_unique<Connector>(std::move(*taken), adapter)));
}

}  // namespace

Listener::Listener(std::shared_ptr<core::Listener> native, std::shared_ptr<AdapterState> adapter,
                   const py::object& on_connect)
    : Handle("listener", std::move(native), std::move(adapter)) {
    if (on_connect.is_none()) return;
    const auto function = SharedObject::function(on_connect, "on_connect");
    set_calls({function});
    peek()->set_on_connect([callbacks = this->adapter()->with_callbacks(),
                            state = std::weak_ptr(this->adapter()),
                            listener = std::weak_ptr(peek()), function] {
        queue_callback(callbacks,
                       [state, listener, function] { deliver(state, listener, *function); });
    });
}

std::unique_ptr<Connector> Listener::take(std::optional<double> timeout) const {
    const auto native = share();
    Taken taken = std::shared_ptr<core::Connector>();
    const bool is_done = wait_in_slices(Deadline(timeout), [&](auto slice) {
        taken = native->take_connector(slice);
        return !taken || *taken != nullptr || native->is_closed();
    });
    static_cast<void>(get());
    auto connector = value_or_raise(std::move(taken));
    if (!is_done || connector == nullptr) return nullptr;
    return std::make_unique<Connector>(std::move(connector), adapter());
}

std::unique_ptr<Operation> Listener::wait_for_arrival() const {
    auto operation = get().next_arrival();
    return std::make_unique<Operation>(operation, adapter(),
                                       [listener = std::weak_ptr(peek()), operation] {
                                           if (const auto alive = listener.lock())
                                               alive->forget(operation);
                                       });
}

void bind_listener(py::module_& module) {
    py::class_<Listener> cls(module, "Listener", py::is_final(), collected<Listener>());
    bind_handle(cls);
    bind_repr(cls, [](const Listener& self) {
        auto address = self.get().local_address();
        return address ? "at " + address->text() : "not listening";
    });
    cls.def(
           "listen",
           [](const Listener& self, const py::object& address) {
               static_cast<void>(self.get());  // before a name is looked up
               const core::SocketAddress resolved = resolve_address(address);
               check_or_raise(
                   self.call_without_gil([&](auto& native) { return native.listen(resolved); }));
           },
           py::arg("address"))
        .def(
            "get_connector",
            [](const Listener& self, std::optional<double> timeout) {
                auto connector = self.take(timeout);
                if (connector == nullptr) {
                    raise(Status::io_timeout,
                          "get_connector: no peer asked for a connection within " +
                              seconds_text(*timeout));
                }
                return connector;
            },
            py::arg("timeout") = py::none())
        .def("_take", [](const Listener& self) { return self.take(0.0); })
        .def("_wait_for_arrival", &Listener::wait_for_arrival)
        .def("control_connect_events",
             native_call<Listener>(&core::Listener::control_connect_events), py::arg("pause"))
        .def_property_readonly("local_address",
                               address_of<Listener, &core::Listener::local_address>);
}

}  // namespace ndv::bindings

// SPDX-License-Identifier: Apache-2.0
// Connectors, listeners and operations as Python sees them.
#pragma once

#include <pybind11/pybind11.h>

#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "bindings/python/handle.hpp"
#include "core/listener.hpp"

namespace ndv::bindings {

// A pending call. `abandon` gives up on it.
class Operation {
public:
    Operation(std::shared_ptr<core::Operation> native, std::shared_ptr<AdapterState> adapter,
              std::function<void()> abandon)
        : native_(std::move(native)),
          adapter_(std::move(adapter)),
          abandon_(std::move(abandon)),
          callbacks_(std::make_shared<DoneCallbacks>()) {}

    // Waits up to the timeout, raises the failure; on Ctrl-C or a timeout the operation goes on.
    // `what` names it in messages.
    void wait(std::optional<double> timeout, const char* what) const;
    // As wait(); a timeout or an exception of a signal handler abandons it.
    void wait_or_abandon(std::optional<double> timeout, const char* what) const;
    [[nodiscard]] bool is_done() const { return native_->is_done(); }
    void raise_failure() const;
    void abandon() const;
    // `self` is the Python object of this operation, the argument of `function`.
    void add_done_callback(const py::object& self, const py::object& function);

private:
    // Touched only with the GIL.
    struct DoneCallbacks {
        bool is_hooked = false;
        std::vector<std::pair<std::shared_ptr<SharedObject>, std::shared_ptr<SharedObject>>> list;
    };

    const std::shared_ptr<core::Operation> native_;
    const std::shared_ptr<AdapterState> adapter_;
    const std::function<void()> abandon_;
    const std::shared_ptr<DoneCallbacks> callbacks_;
};

class SharedEndpoint final : public Handle<core::SharedEndpoint> {
public:
    SharedEndpoint(std::shared_ptr<core::SharedEndpoint> native,
                   std::shared_ptr<AdapterState> adapter)
        : Handle("shared endpoint", std::move(native), std::move(adapter)) {}
};

class Connector final : public Handle<core::Connector> {
public:
    Connector(std::shared_ptr<core::Connector> native, std::shared_ptr<AdapterState> adapter)
        : Handle("connector", std::move(native), std::move(adapter)) {}
};

class Listener final : public Handle<core::Listener> {
public:
    // `on_connect`, unless None, gets every connector on the callback thread.
    Listener(std::shared_ptr<core::Listener> native, std::shared_ptr<AdapterState> adapter,
             const py::object& on_connect);
    // Null: none came in time.
    [[nodiscard]] std::unique_ptr<Connector> take(std::optional<double> timeout) const;
    // Done when a connector may be there.
    [[nodiscard]] std::unique_ptr<Operation> wait_for_arrival() const;
};

// "host:port", "[v6]:port" or (host, port) as ndverbs._address resolves it.
[[nodiscard]] core::SocketAddress resolve_address(const py::object& address);
// Where a connection begins: None, an address, or a SharedEndpoint.
void set_source(core::ConnectParameters& parameters, const py::object& source);
// (host, port); ("", 0) of an address that is not known.
[[nodiscard]] py::tuple to_pair(const core::SocketAddress& address);
// The property of an object that may have such an address.
template <typename Value, auto kAddress>
[[nodiscard]] py::tuple address_of(const Value& self) {
    return to_pair(value_or_raise((self.get().*kAddress)()));
}

}  // namespace ndv::bindings

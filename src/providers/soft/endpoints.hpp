// SPDX-License-Identifier: Apache-2.0
// The local addresses that an adapter's listeners, their connectors and shared endpoints hold. The
// kernel would give a port away again while connections of a closed listener live, or let a
// listener onto a shared endpoint's port; NDK does not.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "base/descriptor.hpp"
#include "base/mutex.hpp"
#include "core/connection.hpp"

namespace ndv::soft {

// Taken as long as somebody holds it: a listener and the connectors accepted through it, or a
// shared endpoint and the connectors that connect from it.
class Endpoint {
public:
    explicit Endpoint(const core::SocketAddress& address) : address_(address) {}
    [[nodiscard]] const core::SocketAddress& address() const { return address_; }

private:
    const core::SocketAddress address_;
};

class EndpointTable {
public:
    // Null: the address, or one that overlaps it, is taken. Its port is not 0.
    [[nodiscard]] std::shared_ptr<Endpoint> claim(const core::SocketAddress& address);

private:
    base::Mutex mutex_;
    std::vector<std::weak_ptr<Endpoint>> taken_ NDV_GUARDED_BY(mutex_);
};

// A socket bound to `address`, which others of this process may be bound to as well; its port is
// never one that the system chose for it. `call` names who asks.
[[nodiscard]] Expected<base::Descriptor> bound_socket(core::SocketAddress address,
                                                      const char* call);

// Reserves a local address for connectors to different peers; NDK's shared endpoint.
class SharedEndpoint final : public core::SharedEndpoint {
public:
    SharedEndpoint(base::Descriptor socket, std::shared_ptr<Endpoint> endpoint)
        : socket_(std::move(socket)), endpoint_(std::move(endpoint)) {}
    [[nodiscard]] core::SocketAddress local_address() const override {
        return endpoint_->address();
    }
    [[nodiscard]] const std::shared_ptr<Endpoint>& endpoint() const { return endpoint_; }

private:
    void do_close() override {}
    const base::Descriptor socket_;  // keeps other programs off the port
    const std::shared_ptr<Endpoint> endpoint_;
};

}  // namespace ndv::soft

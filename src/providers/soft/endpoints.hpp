// SPDX-License-Identifier: Apache-2.0
// Sockets bound to local addresses, and the shared endpoint.
#pragma once

#include <memory>
#include <utility>

#include "base/descriptor.hpp"
#include "core/address.hpp"
#include "core/endpoints.hpp"

namespace ndv::soft {

using core::Endpoint;
using core::EndpointTable;

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

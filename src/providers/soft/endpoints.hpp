// SPDX-License-Identifier: Apache-2.0
// Sockets bound to local addresses, and the shared endpoint.
#pragma once

#include <memory>
#include <utility>

#include "base/descriptor.hpp"
#include "core/address.hpp"
#include "core/endpoints.hpp"

namespace ndv::soft {

// A socket bound to `address`, which others of this process may be bound to as well; its port is
// never one that the system chose for it. `call` names who asks.
[[nodiscard]] Expected<base::Descriptor> bound_socket(core::SocketAddress address,
                                                      const char* call);

// Reserves a local address for connectors to different peers; NDK's shared endpoint.
class SharedEndpoint final : public core::SharedEndpoint {
public:
    SharedEndpoint(base::Descriptor socket, std::shared_ptr<core::Claim> claim)
        : socket_(std::move(socket)), claim_(std::move(claim)) {}
    [[nodiscard]] core::SocketAddress local_address() const override { return claim_->address; }
    [[nodiscard]] const std::shared_ptr<core::Claim>& claim() const { return claim_; }

private:
    void do_close() override {}
    const base::Descriptor socket_;  // keeps other programs off the port
    const std::shared_ptr<core::Claim> claim_;
};

}  // namespace ndv::soft

// SPDX-License-Identifier: Apache-2.0
// rdma_cm_ids that hold a local address, and the shared endpoint.
#pragma once

#include <memory>
#include <set>
#include <string>

#include "base/mutex.hpp"
#include "core/endpoints.hpp"
#include "providers/verbs/cm.hpp"

namespace ndv::verbs {

// A local address of the device: taken from rdma_cm, and in the adapter's table.
struct BoundAddress {
    std::shared_ptr<CmId> id;
    std::shared_ptr<core::Claim> claim;
};

// Binds an id to the address; port 0 is any free one. `call` is the caller's, for the message.
[[nodiscard]] Expected<BoundAddress> bind_address(const std::shared_ptr<AdapterParts>& parts,
                                                  core::SocketAddress address, const char* call,
                                                  std::weak_ptr<CmObserver> observer);

// What a shared endpoint and the connectors that connect from it hold: the address is free when the
// last of them has gone. rdma_cm on InfiniBand would let two of them connect to one peer.
class EndpointShare {
public:
    explicit EndpointShare(BoundAddress bound) : bound_(std::move(bound)) {}
    [[nodiscard]] const core::SocketAddress& address() const { return bound_.claim->address; }
    // False: another connector connects or is connected to this peer.
    [[nodiscard]] bool add(const std::string& peer);
    void remove(const std::string& peer);

private:
    const BoundAddress bound_;
    base::Mutex mutex_;
    std::set<std::string> peers_ NDV_GUARDED_BY(mutex_);
};

// One peer of a share, for the life of its connector's attempt or connection.
class EndpointUse {
public:
    // Null: the share has this peer already.
    [[nodiscard]] static std::shared_ptr<EndpointUse> begin(std::shared_ptr<EndpointShare> share,
                                                            const std::string& peer);
    EndpointUse(std::shared_ptr<EndpointShare> share, std::string peer);
    EndpointUse(const EndpointUse&) = delete;
    EndpointUse& operator=(const EndpointUse&) = delete;
    ~EndpointUse() { share_->remove(peer_); }

private:
    const std::shared_ptr<EndpointShare> share_;
    const std::string peer_;
};

class SharedEndpoint final : public core::SharedEndpoint {
public:
    [[nodiscard]] static Expected<std::shared_ptr<core::SharedEndpoint>> create(
        const std::shared_ptr<AdapterParts>& parts, const core::SocketAddress& address);
    SharedEndpoint(std::shared_ptr<AdapterParts> parts, std::shared_ptr<EndpointShare> share)
        : parts_(std::move(parts)), share_(std::move(share)) {}
    [[nodiscard]] core::SocketAddress local_address() const override { return share_->address(); }
    [[nodiscard]] const std::shared_ptr<AdapterParts>& parts() const { return parts_; }
    [[nodiscard]] const std::shared_ptr<EndpointShare>& share() const { return share_; }

private:
    void do_close() override {}

    const std::shared_ptr<AdapterParts> parts_;
    const std::shared_ptr<EndpointShare> share_;
};

}  // namespace ndv::verbs

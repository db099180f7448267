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

// Free when the connectors that connect from it have gone, too: they hold it by use().
class SharedEndpoint final : public core::SharedEndpoint {
public:
    [[nodiscard]] static Expected<std::shared_ptr<core::SharedEndpoint>> create(
        const std::shared_ptr<AdapterParts>& parts, const core::SocketAddress& address);
    SharedEndpoint(std::shared_ptr<AdapterParts> parts, BoundAddress bound)
        : parts_(std::move(parts)), bound_(std::move(bound)) {}
    [[nodiscard]] core::SocketAddress local_address() const override {
        return bound_.claim->address;
    }
    [[nodiscard]] const std::shared_ptr<AdapterParts>& parts() const { return parts_; }
    // A connection to this peer, or an attempt, until it is let go of; null: there is one already.
    // rdma_cm on InfiniBand would let two connectors connect to one peer.
    [[nodiscard]] std::shared_ptr<void> use(const std::string& peer);

private:
    void do_close() override {}
    void leave(const std::string& peer);

    const std::shared_ptr<AdapterParts> parts_;
    const BoundAddress bound_;
    base::Mutex mutex_;
    std::set<std::string> peers_ NDV_GUARDED_BY(mutex_);
};

}  // namespace ndv::verbs

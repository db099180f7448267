// SPDX-License-Identifier: Apache-2.0
// Listeners of the verbs provider: one listening rdma_cm_id each.
#pragma once

#include <memory>

#include "base/mutex.hpp"
#include "core/listener.hpp"
#include "providers/verbs/endpoints.hpp"

namespace ndv::verbs {

class Listener final : public core::Listener, public CmObserver {
public:
    Listener(std::shared_ptr<AdapterParts> parts, std::weak_ptr<core::Adapter> adapter);
    ~Listener() override;

    [[nodiscard]] bool waits_for_device() const override { return true; }

    // CmObserver.
    void on_cm_event(const rdma_cm_event& event, std::shared_ptr<CmId> incoming) override;

private:
    [[nodiscard]] Expected<Bound> do_listen(const core::SocketAddress& address) override
        NDV_REQUIRES(mutex_);
    void do_stop() override;

    const std::shared_ptr<AdapterParts> parts_;
    std::shared_ptr<CmId> id_ NDV_GUARDED_BY(mutex_);
};

}  // namespace ndv::verbs

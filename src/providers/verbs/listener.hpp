// SPDX-License-Identifier: Apache-2.0
// Listeners of the verbs provider: one listening rdma_cm_id each.
#pragma once

#include <atomic>
#include <memory>
#include <optional>

#include "base/mutex.hpp"
#include "core/connection.hpp"
#include "providers/verbs/endpoints.hpp"

namespace ndv::verbs {

class Listener final : public core::Listener, public CmObserver {
public:
    Listener(std::shared_ptr<AdapterParts> parts, std::weak_ptr<core::Adapter> adapter);
    ~Listener() override;

    [[nodiscard]] Expected<void> listen(const core::SocketAddress& address) override;
    [[nodiscard]] Expected<std::shared_ptr<core::Connector>> take_connector(
        std::chrono::nanoseconds timeout) override;
    void set_on_connect(std::function<void()> function) override {
        requests_.set_on_connect(std::move(function));
    }
    void control_connect_events(bool pause) override {
        is_paused_.store(pause, std::memory_order_release);
    }
    [[nodiscard]] Expected<core::SocketAddress> local_address() const override;
    [[nodiscard]] bool waits_for_device() const override { return true; }

    // CmObserver.
    void on_cm_event(const rdma_cm_event& event, std::shared_ptr<CmId> incoming) override;

private:
    void do_close() override;

    const std::shared_ptr<AdapterParts> parts_;
    const std::weak_ptr<core::Adapter> adapter_;
    std::atomic<bool> is_paused_{false};
    std::atomic<bool> is_removed_{false};  // the device: no request can come any more
    core::ConnectorQueue requests_;
    mutable base::Mutex mutex_;
    std::shared_ptr<CmId> id_ NDV_GUARDED_BY(mutex_);
    // The accepted connectors have it, too: the port is taken until they are closed.
    std::shared_ptr<core::Endpoint> claim_ NDV_GUARDED_BY(mutex_);
    std::optional<core::SocketAddress> address_ NDV_GUARDED_BY(mutex_);
};

}  // namespace ndv::verbs

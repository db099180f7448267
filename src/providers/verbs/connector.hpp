// SPDX-License-Identifier: Apache-2.0
// Connectors of the verbs provider: NDK's three-message establishment on rdma_cm's events, which
// differ between InfiniBand and RoCE on one side and iWARP on the other (docs/design.md, "verbs").
#pragma once

#include <memory>

#include "base/mutex.hpp"
#include "core/connector.hpp"
#include "providers/verbs/endpoints.hpp"
#include "providers/verbs/queue_pair.hpp"

namespace ndv::verbs {

// What comes from rdma_cm as private data: its connector's own copy.
[[nodiscard]] inline std::vector<std::byte> private_data_of(const rdma_conn_param& from) {
    const auto* const bytes = static_cast<const std::byte*>(from.private_data);
    if (bytes == nullptr) return {};
    return {bytes, bytes + from.private_data_len};
}

class Connector final : public core::Connector, public CmObserver, public core::QueuePairObserver {
public:
    explicit Connector(std::shared_ptr<AdapterParts> parts);
    // Passive: a request has come.
    Connector(std::shared_ptr<AdapterParts> parts, std::shared_ptr<CmId> id,
              const rdma_cm_event& request);
    ~Connector() override;

    [[nodiscard]] bool waits_for_device() const override { return true; }

    void on_cm_event(const rdma_cm_event& event, std::shared_ptr<CmId> incoming) override;
    // QueuePairObserver.
    void on_heard() override;
    void on_drained() override { note_drained(); }
    void on_over(bool is_failure, int os_error) override;

private:
    using State = core::ConnectorState;

    [[nodiscard]] Expected<void> do_check(const core::ConnectParameters& parameters) const override;
    [[nodiscard]] Expected<void> do_connect(const core::ConnectParameters& parameters) override
        NDV_REQUIRES(mutex_);
    [[nodiscard]] Expected<void> do_complete() override NDV_REQUIRES(mutex_);
    [[nodiscard]] Expected<void> do_accept(const core::ConnectParameters& parameters) override
        NDV_REQUIRES(mutex_);
    [[nodiscard]] const char* do_transport() const override { return "rdma"; }
    [[nodiscard]] bool do_goodbye(State state, std::span<const std::byte> private_data) override
        NDV_REQUIRES(mutex_);
    [[nodiscard]] std::shared_ptr<void> do_let_go() override NDV_REQUIRES(mutex_) {
        return std::move(id_);  // destroyed on the worker thread
    }

    [[nodiscard]] QueuePair& queue_pair() NDV_REQUIRES(mutex_) {
        return static_cast<QueuePair&>(*qp_);
    }
    [[nodiscard]] Expected<void> begin_resolving() NDV_REQUIRES(mutex_);
    [[nodiscard]] Expected<void> bind_to(core::SharedEndpoint& endpoint) NDV_REQUIRES(mutex_);
    [[nodiscard]] Expected<void> choose_route() NDV_REQUIRES(mutex_);
    [[nodiscard]] Expected<void> ask_peer() NDV_REQUIRES(mutex_);
    [[nodiscard]] bool ask_again() NDV_REQUIRES(mutex_);
    void handle_answer(const rdma_conn_param& answer, Aftermath& after) NDV_REQUIRES(mutex_);
    void handle_refusal(const rdma_cm_event& event, Aftermath& after) NDV_REQUIRES(mutex_);
    void handle_disconnected(Aftermath& after) NDV_REQUIRES(mutex_);
    void handle_removal(Aftermath& after) NDV_REQUIRES(mutex_);
    void note_peer_left(Aftermath& after) NDV_REQUIRES(mutex_);

    const std::shared_ptr<AdapterParts> parts_;
    std::shared_ptr<CmId> id_ NDV_GUARDED_BY(mutex_);
    core::ConnectParameters parameters_ NDV_GUARDED_BY(mutex_);
    int ports_left_ NDV_GUARDED_BY(mutex_) = 0;
};

}  // namespace ndv::verbs

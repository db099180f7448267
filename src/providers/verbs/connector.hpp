// SPDX-License-Identifier: Apache-2.0
// Connectors of the verbs provider: NDK's three-message establishment on rdma_cm's events, which
// differ between InfiniBand and RoCE on one side and iWARP on the other (docs/design.md, "verbs").
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "base/mutex.hpp"
#include "core/connection.hpp"
#include "providers/verbs/endpoints.hpp"
#include "providers/verbs/queue_pair.hpp"

namespace ndv::verbs {

class Connector final : public core::Connector,
                        public Member,
                        public CmObserver,
                        public QueuePairObserver {
public:
    explicit Connector(std::shared_ptr<AdapterParts> parts);
    // Passive: a request has come.
    Connector(std::shared_ptr<AdapterParts> parts, std::shared_ptr<CmId> id,
              const rdma_cm_event& request);
    ~Connector() override;

    // The listener's port, which is taken until this is closed, too.
    void hold(std::shared_ptr<core::Endpoint> claim) {
        const base::Lock lock(mutex_);
        claim_ = std::move(claim);
    }

    [[nodiscard]] core::Pending start_connect(std::shared_ptr<core::QueuePair> qp,
                                              core::ConnectParameters parameters) override;
    [[nodiscard]] core::Pending start_complete_connect(OnDisconnect on_disconnect) override;
    [[nodiscard]] core::Pending start_accept(std::shared_ptr<core::QueuePair> qp,
                                             core::ConnectParameters parameters,
                                             OnDisconnect on_disconnect) override;
    [[nodiscard]] Expected<void> reject(std::vector<std::byte> private_data) override;
    [[nodiscard]] core::Pending start_disconnect(std::chrono::nanoseconds timeout) override;
    void abandon() override;
    [[nodiscard]] bool waits_for_device() const override { return true; }

    // Member: deadlines only.
    void on_ready() override {}
    void on_deadline() override;
    [[nodiscard]] std::uint32_t wanted() const override { return 0; }

    void on_cm_event(const rdma_cm_event& event, std::shared_ptr<CmId> incoming) override;
    void on_drained() override;
    void on_broken() override;
    void on_flushed() override;
    void on_heard() override;

private:
    using State = core::ConnectorState;

    // What is done after the mutex is given back: waking, telling and flushing others.
    struct Aftermath {
        std::shared_ptr<core::Operation> operation;
        Expected<void> outcome;
        OnDisconnect tell;
        std::shared_ptr<QueuePair> to_end;
        core::End why = core::End::closed;  // of to_end
        std::shared_ptr<QueuePair> to_unreserve;
        std::shared_ptr<CmId> id;  // dropped: destroyed on the worker thread
        void run();
    };

    [[nodiscard]] Expected<std::shared_ptr<QueuePair>> claim(
        const std::shared_ptr<core::QueuePair>& qp, core::ConnectParameters& parameters,
        std::uint32_t max_private_data) const;
    [[nodiscard]] Expected<void> begin_resolving(const core::ConnectParameters& parameters)
        NDV_REQUIRES(mutex_);
    [[nodiscard]] Expected<void> bind_to(const core::SharedEndpoint& endpoint) NDV_REQUIRES(mutex_);
    [[nodiscard]] Expected<void> ask_peer() NDV_REQUIRES(mutex_);
    void handle_answer(const rdma_cm_event& event, Aftermath& after) NDV_REQUIRES(mutex_);
    void handle_refusal(const rdma_cm_event& event, Aftermath& after) NDV_REQUIRES(mutex_);
    void handle_established(Aftermath& after) NDV_REQUIRES(mutex_);
    void withdraw(Aftermath& after) NDV_REQUIRES(mutex_);
    // `is_removal`: of the device, which is no end in order.
    void handle_disconnected(bool is_removal, Aftermath& after) NDV_REQUIRES(mutex_);
    void fail_connect(Unexpected error, Aftermath& after) NDV_REQUIRES(mutex_);
    void finish_disconnect(Expected<void> outcome, Aftermath& after) NDV_REQUIRES(mutex_);
    void become_connected() NDV_REQUIRES(mutex_);
    void leave_connected(bool is_failure) NDV_REQUIRES(mutex_);
    void do_close() override;

    const std::shared_ptr<AdapterParts> parts_;
    std::shared_ptr<CmId> id_ NDV_GUARDED_BY(mutex_);
    std::shared_ptr<QueuePair> qp_ NDV_GUARDED_BY(mutex_);
    std::shared_ptr<core::Endpoint> claim_ NDV_GUARDED_BY(mutex_);
    std::unique_ptr<EndpointUse> endpoint_ NDV_GUARDED_BY(mutex_);  // connected from a shared one
    core::ConnectParameters parameters_ NDV_GUARDED_BY(mutex_);
    int ports_left_ NDV_GUARDED_BY(mutex_) = 0;
    std::shared_ptr<core::Operation> operation_ NDV_GUARDED_BY(mutex_);
    OnDisconnect on_disconnect_ NDV_GUARDED_BY(mutex_);
    bool peer_is_gone_ NDV_GUARDED_BY(mutex_) = false;  // it gave up, rejected or disconnected
    bool has_left_ NDV_GUARDED_BY(mutex_) = false;      // our own disconnect is out
    bool is_active_ NDV_GUARDED_BY(mutex_) = false;     // counted as an active connection
};

}  // namespace ndv::verbs

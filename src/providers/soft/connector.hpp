// SPDX-License-Identifier: Apache-2.0
// Connectors of the soft provider: TCP connect, MPA start-up, the three-message establishment of
// NDK, and disconnect. After the start-up the stream belongs to the queue pair.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "base/mutex.hpp"
#include "core/connection.hpp"
#include "iwarp/handshake.hpp"
#include "providers/soft/adapter.hpp"
#include "providers/soft/link.hpp"
#include "providers/soft/progress.hpp"
#include "providers/soft/queue_pair.hpp"

namespace ndv::soft {

class Connector final : public core::Connector, public Member, public StreamObserver {
public:
    explicit Connector(std::shared_ptr<AdapterParts> parts);
    // Passive: a request was received on `link`.
    Connector(std::shared_ptr<AdapterParts> parts, std::unique_ptr<Link> link,
              const iwarp::Handshake& handshake);
    ~Connector() override;

    // Passive: the listener's address is taken until this is closed.
    void hold(std::shared_ptr<Endpoint> endpoint) {
        const base::Lock lock(mutex_);
        endpoint_ = std::move(endpoint);
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

    // Member.
    void on_ready() override;
    void on_deadline() override;
    [[nodiscard]] std::uint32_t wanted() const override {
        return wanted_.load(std::memory_order_acquire);
    }

    // StreamObserver.
    void on_established() override;
    [[nodiscard]] bool on_peer_closed() override;
    void on_drained() override;
    void on_over(const iwarp::Cause& cause) override;

private:
    using State = core::ConnectorState;

    [[nodiscard]] Expected<std::shared_ptr<QueuePair>> claim(
        const std::shared_ptr<core::QueuePair>& qp, const core::ConnectParameters& parameters);
    [[nodiscard]] Expected<void> open_socket(const core::ConnectParameters& parameters)
        NDV_REQUIRES(mutex_);
    void drive_handshake() NDV_REQUIRES(mutex_);
    void finish_connect(Expected<void> outcome) NDV_REQUIRES(mutex_);
    void drop_link() NDV_REQUIRES(mutex_);
    void refuse_answer() NDV_REQUIRES(mutex_);
    [[nodiscard]] bool peer_is_gone() const NDV_REQUIRES(mutex_);
    [[nodiscard]] iwarp::ConnectionConfig stream_config(bool is_initiator) const
        NDV_REQUIRES(mutex_);
    void do_close() override;
    void complete_operation(Expected<void> outcome);

    const std::shared_ptr<AdapterParts> parts_;
    bool is_tcp_connected_ NDV_GUARDED_BY(mutex_) = false;
    std::shared_ptr<Endpoint> endpoint_ NDV_GUARDED_BY(mutex_);  // until it is closed
    std::unique_ptr<Link> link_ NDV_GUARDED_BY(mutex_);          // until the queue pair has it
    std::optional<iwarp::Handshake> handshake_ NDV_GUARDED_BY(mutex_);
    std::shared_ptr<QueuePair> qp_ NDV_GUARDED_BY(mutex_);
    std::shared_ptr<core::Operation> operation_ NDV_GUARDED_BY(mutex_);
    OnDisconnect on_disconnect_ NDV_GUARDED_BY(mutex_);
    bool peer_closed_ NDV_GUARDED_BY(mutex_) = false;
    bool is_drained_ NDV_GUARDED_BY(mutex_) = false;
    bool is_active_ NDV_GUARDED_BY(mutex_) = false;  // counted as an active connection
    std::atomic<std::uint32_t> wanted_{0};
};

}  // namespace ndv::soft

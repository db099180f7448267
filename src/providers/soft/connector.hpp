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
    // Passive: hears from now on when the peer takes its request back.
    void watch();

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

    // What is done after the mutex is given back: flushing, waking and telling others.
    struct Aftermath {
        std::shared_ptr<QueuePair> to_end;
        core::End why = core::End::none;
        std::shared_ptr<core::Operation> operation;
        Expected<void> outcome;
        OnDisconnect tell;
        void run();
    };

    [[nodiscard]] Expected<std::shared_ptr<QueuePair>> claim(
        const std::shared_ptr<core::QueuePair>& qp, const core::ConnectParameters& parameters);
    [[nodiscard]] Expected<void> open_socket(const core::ConnectParameters& parameters)
        NDV_REQUIRES(mutex_);
    void advance_connect(Aftermath& after) NDV_REQUIRES(mutex_);
    [[nodiscard]] bool is_void() const NDV_REQUIRES(mutex_);
    [[nodiscard]] std::function<void()> withdraw() NDV_REQUIRES(mutex_);
    void drive_handshake(Aftermath& after) NDV_REQUIRES(mutex_);
    void finish_connect(Expected<void> outcome, Aftermath& after) NDV_REQUIRES(mutex_);
    void become_connected(const char* how, std::atomic<std::uint64_t>& counter)
        NDV_REQUIRES(mutex_);
    void leave_connected(bool is_failure) NDV_REQUIRES(mutex_);
    // Of what had a stream: the queue pair is flushed.
    void end(Expected<void> outcome, core::End why, Aftermath& after) NDV_REQUIRES(mutex_);
    [[nodiscard]] Expected<void> hand_over(QueuePair& qp, std::unique_ptr<Link> link,
                                           const iwarp::ConnectionConfig& config);
    [[nodiscard]] bool send_reply() NDV_REQUIRES(mutex_);
    void answer_reject(const std::vector<std::byte>& private_data) NDV_REQUIRES(mutex_);
    void drop_link() NDV_REQUIRES(mutex_);
    void refuse_answer() NDV_REQUIRES(mutex_);
    [[nodiscard]] bool peer_is_gone() const NDV_REQUIRES(mutex_);
    [[nodiscard]] iwarp::ConnectionConfig stream_config(bool is_initiator) const
        NDV_REQUIRES(mutex_);
    void do_close() override;

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

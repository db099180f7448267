// SPDX-License-Identifier: Apache-2.0
// Connectors of the soft provider: TCP connect and MPA start-up. After that the stream belongs to
// the queue pair, which reports what becomes of it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "base/mutex.hpp"
#include "core/connector.hpp"
#include "iwarp/handshake.hpp"
#include "providers/soft/adapter.hpp"
#include "providers/soft/link.hpp"
#include "providers/soft/progress.hpp"
#include "providers/soft/queue_pair.hpp"

namespace ndv::soft {

class Approach;
class Passage;

class Connector final : public core::Connector, public core::QueuePairObserver {
public:
    explicit Connector(std::shared_ptr<AdapterParts> parts);
    // Passive: a request was received on `link`.
    Connector(std::shared_ptr<AdapterParts> parts, std::unique_ptr<Link> link,
              const iwarp::Handshake& handshake);
    ~Connector() override;

    // Passive: hears from now on when the peer takes its request back.
    void watch();

    // Member.
    void on_ready() override;
    [[nodiscard]] std::uint32_t wanted() const override {
        return wanted_.load(std::memory_order_acquire);  // pairs with watch_for()
    }

    // Active: what came of the hello by that end of a pair; no descriptor: nothing, in its time.
    void on_offer(base::Descriptor pair);

    // QueuePairObserver.
    void on_heard() override;
    void on_drained() override;
    [[nodiscard]] bool on_peer_closed() override;
    void on_over(bool is_failure, int os_error) override;

private:
    using State = core::ConnectorState;

    [[nodiscard]] Expected<void> do_connect(const core::ConnectParameters& parameters) override
        NDV_REQUIRES(mutex_);
    [[nodiscard]] Expected<void> do_complete() override NDV_REQUIRES(mutex_);
    [[nodiscard]] Expected<void> do_accept(const core::ConnectParameters& parameters) override
        NDV_REQUIRES(mutex_);
    [[nodiscard]] const char* do_transport() const override NDV_REQUIRES(mutex_) {
        return static_cast<const QueuePair&>(*qp_).transport();
    }
    [[nodiscard]] const char* do_transport_reason() const override NDV_REQUIRES(mutex_);
    [[nodiscard]] Expected<void> do_open() override;
    [[nodiscard]] bool do_goodbye(State state, std::span<const std::byte> private_data) override
        NDV_REQUIRES(mutex_);
    [[nodiscard]] std::shared_ptr<void> do_let_go() override NDV_REQUIRES(mutex_);
    void strike(State state) NDV_REQUIRES(mutex_);

    [[nodiscard]] Expected<void> open_socket(const core::ConnectParameters& parameters)
        NDV_REQUIRES(mutex_);
    void advance_connect(Aftermath& after) NDV_REQUIRES(mutex_);
    void drive_handshake(Aftermath& after) NDV_REQUIRES(mutex_);
    void take_answer(Aftermath& after) NDV_REQUIRES(mutex_);
    [[nodiscard]] bool is_void() const NDV_REQUIRES(mutex_);
    [[nodiscard]] bool is_peer_there() const NDV_REQUIRES(mutex_);
    [[nodiscard]] bool send_reply() NDV_REQUIRES(mutex_);
    void watch_for(std::uint32_t events) {
        wanted_.store(events, std::memory_order_release);  // pairs with wanted()
    }
    void unwatch() NDV_REQUIRES(mutex_);
    [[nodiscard]] bool approach() NDV_REQUIRES(mutex_);
    [[nodiscard]] bool may_be_direct() const NDV_REQUIRES(mutex_);
    [[nodiscard]] iwarp::ConnectionConfig stream_config() const NDV_REQUIRES(mutex_);

    const std::shared_ptr<AdapterParts> parts_;
    const bool is_active_side_;
    bool is_tcp_connected_ NDV_GUARDED_BY(mutex_) = false;
    std::unique_ptr<Link> link_ NDV_GUARDED_BY(mutex_);        // until the queue pair has it
    std::weak_ptr<Passage> passage_ NDV_GUARDED_BY(mutex_);    // of a link that faults strike
    std::shared_ptr<Meeting> meeting_ NDV_GUARDED_BY(mutex_);  // until the queue pair has it
    std::shared_ptr<Approach> approach_ NDV_GUARDED_BY(mutex_);
    std::optional<iwarp::Handshake> handshake_ NDV_GUARDED_BY(mutex_);
    std::atomic<std::uint32_t> wanted_{0};
};

}  // namespace ndv::soft

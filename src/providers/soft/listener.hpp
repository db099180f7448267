// SPDX-License-Identifier: Apache-2.0
// Listeners of the soft provider: strangers get under 1 KiB and 10 s to bring a whole MPA request,
// then a connector waits for its taker.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "base/mutex.hpp"
#include "core/connection.hpp"
#include "iwarp/handshake.hpp"
#include "providers/soft/adapter.hpp"
#include "providers/soft/connector.hpp"
#include "providers/soft/progress.hpp"

namespace ndv::soft {

class Incoming;

class Listener final : public core::Listener, public Member {
public:
    explicit Listener(std::shared_ptr<AdapterParts> parts, std::weak_ptr<core::Adapter> adapter);
    ~Listener() override;

    [[nodiscard]] Expected<void> listen(const core::SocketAddress& address) override;
    [[nodiscard]] Expected<std::shared_ptr<core::Connector>> take_connector(
        std::chrono::nanoseconds timeout) override;
    void set_on_connect(std::function<void()> function) override;
    void control_connect_events(bool pause) override;
    [[nodiscard]] Expected<core::SocketAddress> local_address() const override;

    // Member.
    void on_ready() override;
    void on_deadline() override;
    [[nodiscard]] std::uint32_t wanted() const override;

    // From Incoming: the start-up of one stranger has ended, with a request or without.
    void handle_request(std::uint64_t id, std::unique_ptr<Link> link,
                        const iwarp::Handshake& handshake);
    void forget(std::uint64_t id);

private:
    void do_close() override;
    void admit(base::Descriptor socket);
    [[nodiscard]] bool make_room();
    [[nodiscard]] bool has_most_requests();

    const std::shared_ptr<AdapterParts> parts_;
    const std::weak_ptr<core::Adapter> adapter_;
    mutable base::Mutex mutex_;
    base::Descriptor socket_ NDV_GUARDED_BY(mutex_);
    // While it listens; its connectors hold it as well.
    std::shared_ptr<Endpoint> endpoint_ NDV_GUARDED_BY(mutex_);
    std::optional<core::SocketAddress> address_ NDV_GUARDED_BY(mutex_);
    bool is_paused_ NDV_GUARDED_BY(mutex_) = false;
    std::atomic<bool> is_out_of_descriptors_{false};
    // By id, which rises: the oldest comes first.
    std::map<std::uint64_t, std::shared_ptr<Incoming>> incoming_ NDV_GUARDED_BY(mutex_);
    core::ConnectorQueue requests_;
};

}  // namespace ndv::soft

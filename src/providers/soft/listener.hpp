// SPDX-License-Identifier: Apache-2.0
// Listeners of the soft provider: strangers get under 1 KiB and 10 s to bring a whole MPA request,
// then a connector waits for its taker.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>

#include "base/mutex.hpp"
#include "core/listener.hpp"
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

    // Member.
    void on_ready() override;
    void on_deadline() override;
    [[nodiscard]] std::uint32_t wanted() const override;

    // From Incoming: the start-up of one stranger has ended, with a request or without.
    void handle_request(std::uint64_t id, std::unique_ptr<Link> link,
                        const iwarp::Handshake& handshake);
    void forget(std::uint64_t id);

private:
    [[nodiscard]] Expected<Bound> do_listen(const core::SocketAddress& address) override
        NDV_REQUIRES(mutex_);
    void do_pause(bool pause) override NDV_REQUIRES(mutex_);
    void do_stop() override;
    void begin_start_up(base::Descriptor socket);
    [[nodiscard]] bool make_room();

    const std::shared_ptr<AdapterParts> parts_;
    base::Descriptor socket_ NDV_GUARDED_BY(mutex_);
    bool is_shut_ NDV_GUARDED_BY(mutex_) = false;  // paused
    std::atomic<bool> is_out_of_descriptors_{false};
    // By id, which rises: the oldest comes first.
    std::map<std::uint64_t, std::shared_ptr<Incoming>> incoming_ NDV_GUARDED_BY(mutex_);
};

}  // namespace ndv::soft

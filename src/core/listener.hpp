// SPDX-License-Identifier: Apache-2.0
// The listener: where requests wait for their taker, by a call, a callback or an operation. A
// provider brings them. Source: NDKPI listener dispatch.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <list>
#include <memory>
#include <optional>

#include "base/expected.hpp"
#include "base/live.hpp"
#include "base/mutex.hpp"
#include "core/address.hpp"
#include "core/connector.hpp"
#include "core/object.hpp"
#include "core/operation.hpp"

namespace ndv::core {

class Adapter;

class Listener : public Object, base::Live<base::LiveKind::listener> {
public:
    // Over this, requests are turned away (NDK has no backlog of its own). Those that were
    // withdrawn give way first.
    static constexpr std::size_t kMostRequests = 1024;

    [[nodiscard]] Expected<void> listen(const SocketAddress& address);
    // Null when the time is over and no request came.
    [[nodiscard]] Expected<std::shared_ptr<Connector>> take_connector(
        std::chrono::nanoseconds timeout);
    // Done when take_connector() may have one, at once when none can come any more.
    [[nodiscard]] std::shared_ptr<Operation> next_arrival();
    void forget(const std::shared_ptr<Operation>& arrival);
    // Called once per connector that becomes available to take_connector(); from any thread.
    void set_on_connect(std::function<void()> function);
    void control_connect_events(bool pause);
    [[nodiscard]] Expected<SocketAddress> local_address() const;

protected:
    struct Bound {
        SocketAddress address;
        std::shared_ptr<void> claim;  // the address is taken as long as it is held
    };

    explicit Listener(std::weak_ptr<Adapter> adapter) : adapter_(std::move(adapter)) {}

    // For a request that has come: false while the listener is paused, closed, or has so many.
    [[nodiscard]] bool takes_requests(std::size_t most = kMostRequests);
    // Lets it wait for its taker; without room it is closed, which is a reject.
    void admit(const std::shared_ptr<Connector>& connector);
    // No request can come any more, for this reason. NDK: closing those that wait is a reject.
    void end_requests(Unexpected why);

    // ---- acts of a provider ----
    [[nodiscard]] virtual Expected<Bound> do_listen(const SocketAddress& address)
        NDV_REQUIRES(mutex_) = 0;
    // Optional: of one that listens. A paused listener refuses.
    virtual void do_pause(bool) NDV_REQUIRES(mutex_) {}
    virtual void do_stop() = 0;

    // Guards what the provider has, too.
    mutable base::Mutex mutex_;

private:
    void do_close() final;

    const std::weak_ptr<Adapter> adapter_;
    std::atomic<bool> is_paused_{false};  // written under the mutex
    std::optional<Bound> bound_ NDV_GUARDED_BY(mutex_);

    base::Mutex requests_mutex_;
    std::condition_variable available_;
    // No deque, which takes memory even for nothing: closing must not.
    std::list<std::shared_ptr<Connector>> waiting_ NDV_GUARDED_BY(requests_mutex_);
    std::list<std::shared_ptr<Operation>> arrivals_ NDV_GUARDED_BY(requests_mutex_);
    std::function<void()> on_connect_ NDV_GUARDED_BY(requests_mutex_);
    std::optional<Unexpected> ended_ NDV_GUARDED_BY(requests_mutex_);
};

}  // namespace ndv::core

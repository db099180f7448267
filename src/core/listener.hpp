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

// Requests that wait for their taker.
class ConnectorQueue {
public:
    // Over this, requests are turned away (NDK has no backlog of its own). Those that were
    // withdrawn give way first.
    static constexpr std::size_t kMost = 1024;

    [[nodiscard]] bool is_full(std::size_t most = kMost);
    // Notifies on_connect and the waiting operations. False when full or closed: the connector was
    // not taken over.
    [[nodiscard]] bool push(std::shared_ptr<Connector> connector);
    // Null when the time is over and no request came.
    [[nodiscard]] Expected<std::shared_ptr<Connector>> take(std::chrono::nanoseconds timeout);
    void set_on_connect(std::function<void()> function);
    // Done at the next request, at once when the queue is closed.
    [[nodiscard]] std::shared_ptr<Operation> next_arrival();
    void forget(const std::shared_ptr<Operation>& operation);
    // Ends every wait; returns the requests that were not taken. NDK: closing them is a reject.
    [[nodiscard]] std::list<std::shared_ptr<Connector>> close();

private:
    using Operations = std::list<std::shared_ptr<Operation>>;

    mutable base::Mutex mutex_;
    std::condition_variable available_;
    // No deque, which takes memory even for nothing: closing must not.
    std::list<std::shared_ptr<Connector>> waiting_ NDV_GUARDED_BY(mutex_);
    Operations arrivals_ NDV_GUARDED_BY(mutex_);
    std::function<void()> on_connect_ NDV_GUARDED_BY(mutex_);
    bool is_closed_ NDV_GUARDED_BY(mutex_) = false;
};

class Listener : public Object, base::Live<base::LiveKind::listener> {
public:
    [[nodiscard]] Expected<void> listen(const SocketAddress& address);
    // Null when the time is over and no request came.
    [[nodiscard]] Expected<std::shared_ptr<Connector>> take_connector(
        std::chrono::nanoseconds timeout);
    // Done when take_connector() may have one.
    [[nodiscard]] std::shared_ptr<Operation> next_arrival() { return requests_.next_arrival(); }
    void forget(const std::shared_ptr<Operation>& arrival) { requests_.forget(arrival); }
    // Called once per connector that becomes available to take_connector(); from any thread.
    void set_on_connect(std::function<void()> function) {
        requests_.set_on_connect(std::move(function));
    }
    void control_connect_events(bool pause);
    [[nodiscard]] Expected<SocketAddress> local_address() const;

protected:
    struct Bound {
        SocketAddress address;
        std::shared_ptr<void> claim;  // the address is taken as long as it is held
    };

    explicit Listener(std::weak_ptr<Adapter> adapter) : adapter_(std::move(adapter)) {}

    // For a request that has come: false while the listener is paused, closed, or has so many.
    [[nodiscard]] bool takes_requests(std::size_t most = ConnectorQueue::kMost);
    // Lets it wait for its taker; without room it is closed, which is a reject.
    void admit(const std::shared_ptr<Connector>& connector);
    // No request can come any more, for this reason.
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
    ConnectorQueue requests_;
    std::atomic<bool> is_paused_{false};  // written under the mutex
    std::optional<Bound> bound_ NDV_GUARDED_BY(mutex_);
    std::optional<Unexpected> ended_ NDV_GUARDED_BY(mutex_);
};

}  // namespace ndv::core

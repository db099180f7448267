// SPDX-License-Identifier: Apache-2.0
// Requests on their way from a provider to their taker.
#include "core/listener.hpp"

#include <string>
#include <utility>
#include <vector>

#include "base/shortage.hpp"
#include "core/adapter.hpp"

namespace ndv::core {
namespace {

Unexpected not_listening(const char* call) {
    return fail(Status::connection_invalid, std::string(call) + ": the listener does not listen",
                "call listen() first");
}

}  // namespace

Expected<void> Listener::listen(const SocketAddress& address) {
    const base::Lock lock(mutex_);
    if (is_closed()) return closed("listen", "listener");
    if (bound_) {
        return fail(Status::invalid_device_request,
                    "listen: the listener listens on " + bound_->address.text() + " already");
    }
    auto bound = do_listen(address);
    if (!bound) return Unexpected{bound.error()};
    bound_ = std::move(*bound);
    if (is_paused_.load(std::memory_order_relaxed)) do_pause(true);
    return {};
}

Expected<std::shared_ptr<Connector>> Listener::take_connector(std::chrono::nanoseconds timeout) {
    {
        const base::Lock lock(mutex_);
        if (!bound_ && !is_closed()) return not_listening("get_connector");
    }
    base::UniqueLock lock(requests_mutex_);
    const auto until = std::chrono::steady_clock::now() + timeout;
    while (waiting_.empty()) {
        if (is_closed()) return closed("get_connector", "listener");
        if (ended_) return *ended_;
        if (available_.wait_until(lock.native(), until) == std::cv_status::timeout) break;
    }
    if (waiting_.empty()) return std::shared_ptr<Connector>();
    std::shared_ptr<Connector> taken = std::move(waiting_.front());
    waiting_.pop_front();
    return taken;
}

std::shared_ptr<Operation> Listener::next_arrival() {
    auto operation = std::make_shared<Operation>();
    const base::Lock lock(requests_mutex_);
    if (ended_) {
        operation->complete(fail(Status::file_forced_closed, "the listener is closed"));
    } else {
        arrivals_.push_back(operation);
    }
    return operation;
}

void Listener::forget(const std::shared_ptr<Operation>& arrival) {
    {
        const base::Lock lock(requests_mutex_);
        std::erase(arrivals_, arrival);
    }
    // Its callbacks hold the operation, which holds them, until it is done.
    arrival->complete(fail(Status::cancelled, "the wait for a connector was abandoned"));
}

void Listener::set_on_connect(std::function<void()> function) {
    const base::Lock lock(requests_mutex_);
    on_connect_ = std::move(function);
}

void Listener::control_connect_events(bool pause) {
    const base::Lock lock(mutex_);
    // acq_rel: pairs with takes_requests().
    if (is_paused_.exchange(pause, std::memory_order_acq_rel) == pause) return;
    if (bound_ && !is_closed()) do_pause(pause);
}

Expected<SocketAddress> Listener::local_address() const {
    const base::Lock lock(mutex_);
    if (!bound_) return not_listening("local_address");
    return bound_->address;
}

bool Listener::takes_requests(std::size_t most) {
    // acquire: pairs with control_connect_events().
    if (is_paused_.load(std::memory_order_acquire) || is_closed()) return false;
    std::vector<std::shared_ptr<Connector>> gone;  // their ends need no lock of ours
    const base::Lock lock(requests_mutex_);
    if (waiting_.size() < most) return true;
    for (auto& connector : waiting_) {
        if (connector->is_withdrawn()) gone.push_back(std::move(connector));
    }
    std::erase(waiting_, nullptr);
    return waiting_.size() < most;
}

void Listener::admit(const std::shared_ptr<Connector>& connector) {
    const auto adapter = adapter_.lock();
    if (!adapter) return;
    {
        const base::Lock lock(mutex_);
        if (bound_) connector->hold(bound_->claim);
    }
    adapter->adopt(connector);
    std::function<void()> notify;
    std::list<std::shared_ptr<Operation>> arrivals;
    {
        const base::Lock lock(requests_mutex_);
        if (ended_ || waiting_.size() >= kMostRequests) return;
        notify = on_connect_;  // first: it may find no memory, and what waits needs its notice
        waiting_.push_back(connector);
        arrivals.swap(arrivals_);
        available_.notify_one();
    }
    for (const auto& operation : arrivals) operation->complete({});
    if (notify) notify();
}

void Listener::end_requests(Unexpected why) {
    std::list<std::shared_ptr<Connector>> left;
    std::list<std::shared_ptr<Operation>> arrivals;
    {
        const base::Lock lock(requests_mutex_);
        ended_ = std::move(why);
        on_connect_ = nullptr;
        available_.notify_all();
        arrivals.swap(arrivals_);
        left.swap(waiting_);
    }
    for (const auto& operation : arrivals) {
        operation->complete(
            base::fail_anyhow(Status::file_forced_closed, "the listener is closed"));
    }
    for (const auto& connector : left) connector->close();
}

void Listener::do_close() {
    do_stop();
    {
        const base::Lock lock(mutex_);
        if (bound_) bound_->claim.reset();
    }
    end_requests(base::fail_anyhow(Status::file_forced_closed, "the listener is closed"));
}

}  // namespace ndv::core

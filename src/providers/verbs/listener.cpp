// SPDX-License-Identifier: Apache-2.0
// Listening, and requests on their way to a connector.
#include "providers/verbs/listener.hpp"

#include <cerrno>
#include <utility>

#include "providers/verbs/connector.hpp"

namespace ndv::verbs {
namespace {

constexpr int kBacklog = 1024;

}  // namespace

Listener::Listener(std::shared_ptr<AdapterParts> parts, std::weak_ptr<core::Adapter> adapter)
    : parts_(std::move(parts)), adapter_(std::move(adapter)) {}

Listener::~Listener() {
    if (!is_foreign()) close();
}

Expected<void> Listener::listen(const core::SocketAddress& address) {
    const base::Lock lock(mutex_);
    const std::string text = address.text();
    if (is_closed()) return fail(Status::file_forced_closed, "listen: the listener is closed");
    if (id_) {
        return fail(Status::invalid_device_request,
                    "listen: the listener listens on " + address_->text() + " already");
    }
    for (int ports_left = address.port() == 0 ? kMorePorts : 0;; --ports_left) {
        auto bound = bind_address(parts_, address, "listen on",
                                  std::static_pointer_cast<Listener>(shared_from_this()));
        if (!bound) return Unexpected{bound.error()};
        if (rdma_listen(bound->id->get(), kBacklog) == 0) {
            id_ = std::move(bound->id);
            claim_ = std::move(bound->claim);
            address_ = id_->local_address();
            return {};
        }
        const int os_error = errno;
        if (os_error == EADDRINUSE && ports_left > 0) continue;
        return fail(
            core::status_of(os_error), "listen on " + text + " failed",
            os_error == EADDRINUSE ? "another program has the port: choose another, or 0" : "",
            os_error);
    }
}

Expected<std::shared_ptr<core::Connector>> Listener::take_connector(
    std::chrono::nanoseconds timeout) {
    {
        const base::Lock lock(mutex_);
        if (!id_ && !is_closed()) {
            return fail(Status::connection_invalid, "get_connector: the listener does not listen",
                        "call listen() first");
        }
    }
    auto taken = requests_.take(timeout);
    // acquire: pairs with the release in on_cm_event().
    if (!taken && is_removed_.load(std::memory_order_acquire) && !is_closed()) {
        return fail(Status::device_removed,
                    "get_connector: the device " + parts_->device->name() + " was removed",
                    "close the adapter, and open one of the devices that are left");
    }
    return taken;
}

void Listener::on_cm_event(const rdma_cm_event& event, std::shared_ptr<CmId> incoming) {
    if (event.event == RDMA_CM_EVENT_DEVICE_REMOVAL) {
        is_removed_.store(true, std::memory_order_release);
        for (const auto& connector : requests_.close()) connector->close();
    }
    if (!incoming) return;
    const auto adapter = adapter_.lock();
    // is_full() also lets go of requests that were taken back.
    if (is_paused_.load(std::memory_order_acquire) || is_closed() || !adapter ||
        !incoming->is_on(*parts_->device) || requests_.is_full()) {
        static_cast<void>(rdma_reject(incoming->get(), nullptr, 0));
        return;
    }
    const auto connector = std::make_shared<Connector>(parts_, incoming, event);
    incoming->set_observer(connector);
    {
        const base::Lock lock(mutex_);
        connector->hold(claim_);
    }
    adapter->adopt(connector);
    static_cast<void>(requests_.push(connector));  // too many: the connector closes, a reject
}

Expected<core::SocketAddress> Listener::local_address() const {
    const base::Lock lock(mutex_);
    if (!address_) {
        return fail(Status::connection_invalid, "local_address: the listener does not listen",
                    "call listen() first");
    }
    return *address_;
}

void Listener::do_close() {
    std::shared_ptr<CmId> gone;
    {
        const base::Lock lock(mutex_);
        gone = std::move(id_);
        claim_.reset();
    }
    gone.reset();
    for (const auto& connector : requests_.close()) connector->close();
}

}  // namespace ndv::verbs

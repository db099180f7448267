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
    : core::Listener(std::move(adapter)), parts_(std::move(parts)) {}

Listener::~Listener() {
    if (!is_foreign()) close();
}

Expected<core::Listener::Bound> Listener::do_listen(const core::SocketAddress& address) {
    for (int ports_left = address.port() == 0 ? kMorePorts : 0;; --ports_left) {
        auto bound = bind_address(parts_, address, "listen on",
                                  std::static_pointer_cast<Listener>(shared_from_this()));
        if (!bound) return Unexpected{bound.error()};
        if (rdma_listen(bound->id->get(), kBacklog) == 0) {
            id_ = std::move(bound->id);
            return Bound{id_->local_address(), std::move(bound->claim)};
        }
        const int os_error = errno;
        if (os_error == EADDRINUSE && ports_left > 0) continue;
        return fail(
            core::status_of(os_error), "listen on " + address.text() + " failed",
            os_error == EADDRINUSE ? "another program has the port: choose another, or 0" : "",
            os_error);
    }
}

void Listener::on_cm_event(const rdma_cm_event& event, std::shared_ptr<CmId> incoming) {
    if (event.event == RDMA_CM_EVENT_DEVICE_REMOVAL) {
        end_requests(fail(Status::device_removed,
                          "get_connector: the device " + parts_->device->name() + " was removed",
                          "close the adapter, and open one of the devices that are left"));
    }
    if (!incoming) return;
    if (!incoming->is_on(*parts_->device) || !takes_requests()) {
        static_cast<void>(rdma_reject(incoming->get(), nullptr, 0));
        return;
    }
    const auto connector = std::make_shared<Connector>(parts_, incoming, event);
    incoming->set_observer(connector);
    admit(connector);
}

void Listener::do_stop() {
    std::shared_ptr<CmId> gone;  // without the mutex
    const base::Lock lock(mutex_);
    gone = std::move(id_);
}

}  // namespace ndv::verbs

// SPDX-License-Identifier: Apache-2.0
// Binding rdma_cm_ids, and sharing what they are bound to.
#include "providers/verbs/endpoints.hpp"

#include <cerrno>
#include <utility>

namespace ndv::verbs {
namespace {

Unexpected is_taken(const std::string& text, int os_error) {
    return fail(Status::sharing_violation, text + ": the address is taken",
                "connections that a closed listener accepted, a shared endpoint or another "
                "program hold it: close them, or choose another port, or 0",
                os_error);
}

}  // namespace

Expected<BoundAddress> bind_address(const std::shared_ptr<AdapterParts>& parts,
                                    core::SocketAddress address, const char* call,
                                    std::weak_ptr<CmObserver> observer) {
    const std::string text = std::string(call) + " " + address.text();
    BoundAddress out;
    if (address.port() != 0) {
        out.claim = parts->claims.take(address);
        if (!out.claim) return is_taken(text, 0);
    }
    auto made = CmId::create(*parts, std::move(observer));
    if (!made) return Unexpected{made.error()};
    out.id = *made;
    rdma_cm_id* const id = out.id->get();
    if (address.family() == AF_INET6) {
        int on = 1;
        static_cast<void>(
            rdma_set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_AFONLY, &on, sizeof on));
    }
    int os_error = rdma_bind_addr(id, address.raw()) == 0 ? 0 : errno;
    if (os_error == EADDRINUSE) {
        // An id of ours that had the port may wait for its destruction.
        parts->worker->drain();
        os_error = rdma_bind_addr(id, address.raw()) == 0 ? 0 : errno;
    }
    if (os_error == EADDRINUSE) return is_taken(text, os_error);
    if (os_error != 0) {
        // No device has the address.
        const Status status =
            os_error == ENODEV ? Status::invalid_address : core::status_of(os_error);
        return fail(status, text + ": bind failed",
                    "name an address of a network interface of " + parts->device->name(), os_error);
    }
    // A wildcard is bound to no device: requests that come through others are refused.
    if (id->verbs != nullptr && !out.id->is_on(*parts->device)) {
        return fail(Status::invalid_address,
                    text + ": the address is not " + parts->device->name() + "'s",
                    "name an address of a network interface of the device");
    }
    if (!out.claim) out.claim = parts->claims.take(out.id->local_address());
    if (!out.claim) return is_taken(text, 0);
    return out;
}

std::shared_ptr<void> SharedEndpoint::use(const std::string& peer) {
    {
        const base::Lock lock(mutex_);
        if (!peers_.insert(peer).second) return nullptr;
    }
    const auto self = std::static_pointer_cast<SharedEndpoint>(shared_from_this());
    return {this, [self, peer](void*) { self->leave(peer); }};
}

void SharedEndpoint::leave(const std::string& peer) {
    const base::Lock lock(mutex_);
    peers_.erase(peer);
}

Expected<std::shared_ptr<core::SharedEndpoint>> SharedEndpoint::create(
    const std::shared_ptr<AdapterParts>& parts, const core::SocketAddress& address) {
    auto bound = bind_address(parts, address, "create_shared_endpoint", {});
    if (!bound) return Unexpected{bound.error()};
    // Only now: ids that bind without this option, as all others do, are refused; those of our
    // connectors have it.
    int on = 1;
    if (rdma_set_option(bound->id->get(), RDMA_OPTION_ID, RDMA_OPTION_ID_REUSEADDR, &on,
                        sizeof on) != 0) {
        return verb_failed("create_shared_endpoint: sharing the address", errno);
    }
    return std::shared_ptr<core::SharedEndpoint>(
        std::make_shared<SharedEndpoint>(parts, std::move(*bound)));
}

}  // namespace ndv::verbs

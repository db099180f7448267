// SPDX-License-Identifier: Apache-2.0
// Ids and their addresses: event channels, binding, resolving, options, destruction.
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netinet/in.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "cm.hpp"
#include "transport.hpp"

namespace ndv::doubles {

std::string host_of(const sockaddr& address) {
    std::array<char, INET6_ADDRSTRLEN> text{};
    const void* const from =
        address.sa_family == AF_INET6
            ? static_cast<const void*>(&reinterpret_cast<const sockaddr_in6&>(address).sin6_addr)
            : static_cast<const void*>(&reinterpret_cast<const sockaddr_in&>(address).sin_addr);
    ::inet_ntop(address.sa_family, from, text.data(), text.size());
    return text.data();
}

std::uint16_t port_of(const sockaddr& address) {  // at the same place in both families
    return ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

std::string text_of(const sockaddr& address) {
    return host_of(address) + ' ' + std::to_string(port_of(address));
}

namespace {

bool is_wildcard(const std::string& host) { return host == "0.0.0.0" || host == "::"; }

bool is_of_this_host(const std::string& host) {
    ifaddrs* all = nullptr;
    if (::getifaddrs(&all) != 0) return false;
    bool is_found = false;
    for (const ifaddrs* one = all; one != nullptr; one = one->ifa_next) {
        const bool has_family = one->ifa_addr != nullptr && (one->ifa_addr->sa_family == AF_INET ||
                                                             one->ifa_addr->sa_family == AF_INET6);
        is_found = is_found || (has_family && host_of(*one->ifa_addr) == host);
    }
    ::freeifaddrs(all);
    return is_found;
}

}  // namespace

Device* device_at(const sockaddr& address, std::uint8_t& port) {
    const std::string host = host_of(address);
    for (const auto& device : world().devices) {
        if (device->is_removed) continue;
        const auto& ports = device->profile.ports;
        for (std::size_t i = 0; i < ports.size(); ++i) {
            const auto& known = ports[i].addresses;
            const bool is_active = ports[i].state == IBV_PORT_ACTIVE;
            if (is_active && std::find(known.begin(), known.end(), host) != known.end()) {
                port = static_cast<std::uint8_t>(i + 1);
                return device.get();
            }
        }
        if (device->has_host_addresses && is_of_this_host(host)) {
            port = 1;
            return device.get();
        }
    }
    return nullptr;
}

void tell(Id& id, rdma_cm_event_type type, int status) { tell(id, type, status, {}, 0); }

void tell(Id& id, rdma_cm_event_type type, int status, const rdma_conn_param& asked,
          std::size_t padded_to) {
    auto event = std::make_unique<CmEvent>();
    event->id = &id;
    event->about = &id;
    event->event = type;
    event->status = status;
    event->param.conn = asked;
    const auto* const bytes = static_cast<const std::byte*>(asked.private_data);
    if (bytes != nullptr) event->data.assign(bytes, bytes + asked.private_data_len);
    event->data.resize(std::max(event->data.size(), padded_to));
    event->param.conn.private_data = event->data.empty() ? nullptr : event->data.data();
    event->param.conn.private_data_len = static_cast<std::uint8_t>(event->data.size());
    static_cast<CmChannel&>(*id.channel).events.push(std::move(event));
}

namespace {

int fail(int os_error) {
    errno = os_error;
    return -1;
}

// The device's context for programs that look at an id.
ibv_context* context_for(Device& device) {
    if (device.for_cm == nullptr) device.for_cm = new Context(device);
    return device.for_cm;
}

sockaddr& source_of(Id& id) { return *rdma_get_local_addr(&id); }
sockaddr& target_of(Id& id) { return *rdma_get_peer_addr(&id); }

void set(sockaddr& to, const sockaddr& from) {
    std::memcpy(&to, &from,
                from.sa_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in));
}

void set_port(sockaddr& address, std::uint16_t port) {
    reinterpret_cast<sockaddr_in&>(address).sin_port = htons(port);
}

bool is_port_taken(const Id& by, const sockaddr& address, std::uint16_t port) {
    const std::string host = host_of(address);
    return std::ranges::any_of(world().ids, [&](const auto& entry) {
        Id& other = *entry.second;
        if (&other == &by || !other.is_bound || port_of(source_of(other)) != port) return false;
        const std::string taken = host_of(source_of(other));
        const bool is_same = taken == host || is_wildcard(taken) || is_wildcard(host);
        return is_same && !(other.is_shared && by.is_shared);
    });
}

int bind_to(Id& id, const sockaddr& address) {
    std::uint8_t device_port = 1;
    Device* const device = device_at(address, device_port);
    if (device == nullptr && !is_wildcard(host_of(address))) return ENODEV;
    static std::uint16_t next = 33000;
    std::uint16_t port = port_of(address);
    if (port == 0) {
        do {
            next = next >= 60000 ? 33000 : static_cast<std::uint16_t>(next + 1);
        } while (is_port_taken(id, address, next));
        port = next;
    } else if (is_port_taken(id, address, port)) {
        return EADDRINUSE;
    }
    set(source_of(id), address);
    set_port(source_of(id), port);
    id.is_bound = true;
    id.device = device;
    id.port_num = device_port;
    id.verbs = device == nullptr ? nullptr : context_for(*device);
    id.state = CmState::bound;
    return 0;
}

}  // namespace
}  // namespace ndv::doubles

using namespace ndv::doubles;

extern "C" {

rdma_event_channel* rdma_create_event_channel() {
    if (const int failed = world().refusal("rdma_create_event_channel"); failed != 0) {
        errno = failed;
        return nullptr;
    }
    auto* const made = new CmChannel{};
    made->fd = made->events.fd();
    const Lock lock(world().mutex);
    ++world().live["event_channel"];
    return made;
}

void rdma_destroy_event_channel(rdma_event_channel* channel) {
    const Lock lock(world().mutex);
    --world().live["event_channel"];
    delete static_cast<CmChannel*>(channel);
}

int rdma_create_id(rdma_event_channel* channel, rdma_cm_id** id, void* owner,
                   rdma_port_space space) {
    if (const int failed = world().refusal("rdma_create_id"); failed != 0) return fail(failed);
    const Lock lock(world().mutex);
    auto* const made = new Id{};
    made->channel = channel;
    made->context = owner;
    made->ps = space;
    made->serial = world().next_serial++;
    world().ids[made->serial] = made;
    ++world().live["cm_id"];
    *id = made;
    return 0;
}

int rdma_bind_addr(rdma_cm_id* id, sockaddr* address) {
    if (const int failed = world().refusal("rdma_bind_addr"); failed != 0) return fail(failed);
    const Lock lock(world().mutex);
    auto& mine = static_cast<Id&>(*id);
    if (mine.state != CmState::idle) return fail(EINVAL);
    const int failed = bind_to(mine, *address);
    return failed == 0 ? 0 : fail(failed);
}

int rdma_resolve_addr(rdma_cm_id* id, sockaddr* local, sockaddr* peer, int) {
    if (const int failed = world().refusal("rdma_resolve_addr"); failed != 0) return fail(failed);
    const Lock lock(world().mutex);
    auto& mine = static_cast<Id&>(*id);
    if (local != nullptr && local->sa_family != peer->sa_family) return fail(EINVAL);
    if (mine.state == CmState::idle) {
        sockaddr_storage any{};
        auto& from = reinterpret_cast<sockaddr&>(any);
        if (local != nullptr) {
            set(from, *local);
        } else {
            // The double's routes: a device reaches its own addresses.
            set(from, *peer);
            set_port(from, 0);
        }
        std::uint8_t port = 1;
        const bool is_known = local != nullptr || device_at(from, port) != nullptr;
        if (is_known) {
            if (const int failed = bind_to(mine, from); failed != 0) return fail(failed);
        }
    }
    set(target_of(mine), *peer);
    mine.state = CmState::resolving;
    world().after(std::chrono::microseconds(0), [serial = mine.serial] {
        const auto found = world().ids.find(serial);
        if (found == world().ids.end() || found->second->state != CmState::resolving) return;
        Id& asking = *found->second;
        std::uint8_t port = 1;
        Device* const there = device_at(target_of(asking), port);
        const bool is_reached = there != nullptr && asking.device == there;
        asking.state = is_reached ? CmState::resolved : CmState::bound;
        if (is_reached) {
            tell(asking, RDMA_CM_EVENT_ADDR_RESOLVED);
        } else {
            tell(asking, RDMA_CM_EVENT_ADDR_ERROR, there == nullptr ? -ENODEV : -ETIMEDOUT);
        }
    });
    return 0;
}

int rdma_resolve_route(rdma_cm_id* id, int) {
    if (const int failed = world().refusal("rdma_resolve_route"); failed != 0) return fail(failed);
    const Lock lock(world().mutex);
    auto& mine = static_cast<Id&>(*id);
    if (mine.state != CmState::resolved) return fail(EINVAL);
    mine.state = CmState::routed;
    tell(mine, RDMA_CM_EVENT_ROUTE_RESOLVED);
    return 0;
}

int rdma_set_option(rdma_cm_id* id, int level, int option, void* value, std::size_t size) {
    if (const int failed = world().refusal("rdma_set_option"); failed != 0) return fail(failed);
    const Lock lock(world().mutex);
    auto& mine = static_cast<Id&>(*id);
    if (level != RDMA_OPTION_ID) return fail(ENOSYS);
    int given = 0;
    std::memcpy(&given, value, std::min(size, sizeof given));
    if (option == RDMA_OPTION_ID_REUSEADDR) {
        mine.is_shared = given != 0;
    } else if (option == RDMA_OPTION_ID_AFONLY) {
        mine.has_one_family = given != 0;
    } else if (option == RDMA_OPTION_ID_TOS && size == 1) {
        mine.tos = *static_cast<std::uint8_t*>(value);
    } else if (option == RDMA_OPTION_ID_ACK_TIMEOUT && size == 1) {
        mine.ack_timeout = *static_cast<std::uint8_t*>(value);
    } else {
        return fail(ENOSYS);
    }
    return 0;
}

int rdma_get_cm_event(rdma_event_channel* channel, rdma_cm_event** event) {
    std::unique_ptr<CmEvent> taken;
    if (!static_cast<CmChannel&>(*channel).events.take(
            taken, [](const auto& about) { ++about->about->events.taken; })) {
        return -1;
    }
    if (taken->incoming != nullptr) {
        const Lock lock(world().mutex);
        ++world().live["cm_id"];
        std::exchange(taken->incoming, nullptr)->is_taken = true;
    }
    *event = taken.release();
    return 0;
}

int rdma_ack_cm_event(rdma_cm_event* event) {
    const std::unique_ptr<CmEvent> gone(static_cast<CmEvent*>(event));
    const Lock lock(world().mutex);
    ++gone->about->events.acknowledged;
    world().acknowledged.notify_all();
    return 0;
}

}  // extern "C"

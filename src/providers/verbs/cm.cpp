// SPDX-License-Identifier: Apache-2.0
// Serving the event channel, and the life of rdma_cm_ids.
#include "providers/verbs/cm.hpp"

#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace ndv::verbs {
namespace {

constexpr const char* kManager = "/dev/infiniband/rdma_cm";
constexpr int kResolveTime_ms = 1000;
constexpr int kBatch = 64;  // events, then others have their turn

core::SocketAddress address_of(const sockaddr* raw) {
    core::SocketAddress out;
    out.length = raw->sa_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
    std::memcpy(&out.storage, raw, out.length);
    return out;
}

template <auto kDestroy>
struct Destroy {
    template <typename T>
    void operator()(T* handle) const {
        kDestroy(handle);
    }
};

// An event channel whose descriptor blocks, and ids of it without an observer.
using LoneChannel = std::unique_ptr<rdma_event_channel, Destroy<rdma_destroy_event_channel>>;
using LoneId = std::unique_ptr<rdma_cm_id, Destroy<rdma_destroy_id>>;

LoneId lone_id(const LoneChannel& channel) {
    rdma_cm_id* id = nullptr;
    if (!channel || rdma_create_id(channel.get(), &id, nullptr, RDMA_PS_TCP) != 0) id = nullptr;
    return LoneId(id);
}

// That rdma_cm has chosen; empty: none.
std::string device_of(const LoneId& id) {
    return id->verbs == nullptr ? "" : ibv_get_device_name(id->verbs->device);
}

bool is_for_peers(const sockaddr& address) {
    if (address.sa_family == AF_INET) {
        const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
        return (ntohl(v4.sin_addr.s_addr) >> 24U) != IN_LOOPBACKNET;
    }
    if (address.sa_family != AF_INET6) return false;
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
    return !IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr) && !IN6_IS_ADDR_LINKLOCAL(&v6.sin6_addr);
}

}  // namespace

std::string device_towards(const core::SocketAddress& peer) {
    const LoneChannel channel(rdma_create_event_channel());
    const LoneId id = lone_id(channel);
    core::SocketAddress target = peer;
    rdma_cm_event* event = nullptr;
    if (!id || rdma_resolve_addr(id.get(), nullptr, target.raw(), kResolveTime_ms) != 0 ||
        rdma_get_cm_event(channel.get(), &event) != 0) {
        return {};
    }
    const bool is_resolved = event->event == RDMA_CM_EVENT_ADDR_RESOLVED;
    rdma_ack_cm_event(event);
    return is_resolved ? device_of(id) : "";
}

std::vector<std::string> AddressBook::of(const std::string& device) {
    if (!known_) {
        known_.emplace();
        const LoneChannel channel(rdma_create_event_channel());
        ifaddrs* all = nullptr;
        if (!channel || ::getifaddrs(&all) != 0) return {};
        for (const ifaddrs* one = all; one != nullptr; one = one->ifa_next) {
            if (one->ifa_addr == nullptr || (one->ifa_flags & IFF_UP) == 0 ||
                !is_for_peers(*one->ifa_addr)) {
                continue;
            }
            core::SocketAddress address = address_of(one->ifa_addr);
            const LoneId id = lone_id(channel);
            if (id && rdma_bind_addr(id.get(), address.raw()) == 0 && !device_of(id).empty()) {
                (*known_)[device_of(id)].push_back(address.host());
            }
        }
        ::freeifaddrs(all);
    }
    return (*known_)[device];
}

Expected<std::shared_ptr<CmChannel>> CmChannel::open(const std::shared_ptr<AdapterParts>& parts) {
    rdma_event_channel* const channel = rdma_create_event_channel();
    if (channel == nullptr) {
        int os_error = errno;
        // librdmacm looks at the device first, and what it finds there it leaves in errno.
        if (::access(kManager, R_OK | W_OK) != 0) os_error = errno;
        if (os_error == EACCES || os_error == EPERM) {
            return fail(Status::access_denied, std::string("open: no permission on ") + kManager,
                        "allow this user to read and write it (udev's group is usually rdma); in a "
                        "container, pass it through",
                        os_error);
        }
        return fail(Status::device_not_ready, "open: the connection manager cannot be reached",
                    "load the kernel module rdma_ucm; in a container, pass "
                    "/dev/infiniband/rdma_cm through",
                    os_error);
    }
    auto made = std::make_shared<CmChannel>(channel, parts);
    if (::fcntl(channel->fd, F_SETFL, O_NONBLOCK) != 0) {
        return verb_failed("open: the event channel", errno);
    }
    if (auto added = parts->progress->add(made, channel->fd); !added) {
        return Unexpected{added.error()};
    }
    return made;
}

CmChannel::CmChannel(rdma_event_channel* channel, const std::shared_ptr<AdapterParts>& parts)
    : channel_(channel), device_(parts->device), worker_(parts->worker) {
    base::register_descriptor(channel_->fd);
}

CmChannel::~CmChannel() {
    if (device_->is_foreign()) return;
    base::forget_descriptor(channel_->fd);
    rdma_destroy_event_channel(channel_);
}

std::uint32_t CmChannel::wanted() const { return EPOLLIN; }

void CmChannel::on_ready() {
    // However the handling ends, and not before: an id's destruction waits for this, and so its
    // binding is valid until here.
    struct Acknowledgement {
        rdma_cm_event* event = nullptr;
        ~Acknowledgement() {
            if (event != nullptr) rdma_ack_cm_event(event);
        }
    };
    for (int i = 0; i < kBatch; ++i) {
        std::shared_ptr<CmObserver> observer;  // maybe the last reference: goes behind that
        Acknowledgement acknowledgement;
        if (rdma_get_cm_event(channel_, &acknowledgement.event) != 0) return;
        dispatch(*acknowledgement.event, observer);
    }
}

void CmChannel::dispatch(const rdma_cm_event& event, std::shared_ptr<CmObserver>& observer) {
    auto* const binding = static_cast<CmId::Binding*>(event.id->context);
    std::shared_ptr<CmId> incoming;
    if (event.event == RDMA_CM_EVENT_CONNECT_REQUEST) {
        // The new id has its listener's context until the CmId gives it its own.
        incoming = std::make_shared<CmId>(event.id, shared_from_this(), worker_, device_);
    }
    {
        const base::Lock lock(binding->mutex);
        observer = binding->observer.lock();
    }
    if (observer) observer->on_cm_event(event, std::move(incoming));
}

Expected<std::shared_ptr<CmId>> CmId::create(const AdapterParts& parts,
                                             std::weak_ptr<CmObserver> observer) {
    // It will destroy the id: the progress thread cannot, while it hands out events.
    if (auto started = parts.worker->start(); !started) return Unexpected{started.error()};
    rdma_cm_id* id = nullptr;
    if (rdma_create_id(parts.channel->get(), &id, nullptr, RDMA_PS_TCP) != 0) {
        return verb_failed("rdma_create_id", errno);
    }
    auto made = std::make_shared<CmId>(id, parts.channel, parts.worker, parts.device);
    made->set_observer(std::move(observer));
    return made;
}

CmId::CmId(rdma_cm_id* id, std::shared_ptr<CmChannel> channel, std::shared_ptr<Worker> worker,
           std::shared_ptr<Device> device)
    : id_(id),
      channel_(std::move(channel)),
      worker_(std::move(worker)),
      device_(std::move(device)) {
    id_->context = binding_.get();
}

CmId::~CmId() {
    if (device_->is_foreign()) {
        static_cast<void>(binding_.release());
        return;
    }
    worker_->run(
        [id = id_, channel = channel_, binding = std::shared_ptr<Binding>(std::move(binding_))] {
            rdma_destroy_id(id);
        });
}

void CmId::set_observer(std::weak_ptr<CmObserver> observer) {
    const base::Lock lock(binding_->mutex);
    binding_->observer = std::move(observer);
}

bool CmId::is_on(const Device& device) const {
    return id_->verbs != nullptr && id_->verbs->device != nullptr &&
           device.name() == ibv_get_device_name(id_->verbs->device);
}

core::SocketAddress CmId::local_address() const { return address_of(rdma_get_local_addr(id_)); }

core::SocketAddress CmId::peer_address() const { return address_of(rdma_get_peer_addr(id_)); }

}  // namespace ndv::verbs

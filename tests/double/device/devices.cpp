// SPDX-License-Identifier: Apache-2.0
// Calls about devices: listing, opening, attributes, asynchronous events, domains.
#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "calls.hpp"
#include "objects.hpp"

namespace ndv::doubles {

Device::Device(const Profile& made_as, int index) : ibv_device{}, profile(made_as) {
    node_type = profile.is_iwarp()                               ? IBV_NODE_RNIC
                : profile.transport == IBV_TRANSPORT_UNSPECIFIED ? IBV_NODE_UNSPECIFIED
                                                                 : IBV_NODE_CA;
    transport_type = profile.transport;
    std::snprintf(name, sizeof name, "%.*s", static_cast<int>(profile.name.size()),
                  profile.name.data());
    std::snprintf(dev_name, sizeof dev_name, "uverbs_double%d", index);
}

Context::Context(Device& of) : ibv_context{}, owner(of) {
    device = &of;
    cmd_fd = ::eventfd(0, EFD_CLOEXEC);
    async_fd = events.fd();
    num_comp_vectors = 4;
    pthread_mutex_init(&mutex, nullptr);
    ops.alloc_mw = alloc_mw;
    ops.dealloc_mw = dealloc_mw;
    ops.poll_cq = poll_cq;
    ops.req_notify_cq = req_notify_cq;
    ops.post_send = post_send;
    ops.post_recv = post_recv;
    ops.post_srq_recv = post_srq_recv;
}

Context::~Context() {
    ::close(cmd_fd);
    pthread_mutex_destroy(&mutex);
}

void report(Context& to, ibv_event_type type, void* element) {
    ibv_async_event event{};
    event.event_type = type;
    event.element.qp = static_cast<ibv_qp*>(element);
    to.events.push(event);
}

namespace {

// Whom the event counts for; null: the device.
Counted* counted_of(const ibv_async_event& event) {
    switch (event.event_type) {
        case IBV_EVENT_CQ_ERR:
            return &static_cast<CompletionQueue*>(event.element.cq)->events;
        case IBV_EVENT_QP_FATAL:
        case IBV_EVENT_QP_REQ_ERR:
        case IBV_EVENT_QP_ACCESS_ERR:
        case IBV_EVENT_COMM_EST:
        case IBV_EVENT_QP_LAST_WQE_REACHED:
            return &static_cast<QueuePair*>(event.element.qp)->events;
        case IBV_EVENT_SRQ_LIMIT_REACHED:
        case IBV_EVENT_SRQ_ERR:
            return &static_cast<SharedQueue*>(event.element.srq)->events;
        default:
            return nullptr;
    }
}

}  // namespace
}  // namespace ndv::doubles

using namespace ndv::doubles;

extern "C" {

ibv_device** ibv_get_device_list(int* count) {
    if (const int failed = world().refusal("ibv_get_device_list"); failed != 0) {
        errno = failed;
        return nullptr;
    }
    const Lock lock(world().mutex);
    auto** const out = new ibv_device*[world().devices.size() + 1];
    int found = 0;
    for (const auto& device : world().devices) {
        if (!device->is_removed) out[found++] = device.get();
    }
    out[found] = nullptr;
    if (count != nullptr) *count = found;
    return out;
}

void ibv_free_device_list(ibv_device** list) { delete[] list; }

const char* ibv_get_device_name(ibv_device* device) { return device->name; }

ibv_context* ibv_open_device(ibv_device* device) {
    if (const int failed = world().refusal("ibv_open_device"); failed != 0) {
        errno = failed;
        return nullptr;
    }
    const Lock lock(world().mutex);
    auto* const of = static_cast<Device*>(device);
    if (of->is_removed) {
        errno = ENODEV;
        return nullptr;
    }
    auto* const made = new Context(*of);
    of->contexts.insert(made);
    ++world().live["context"];
    return made;
}

int ibv_close_device(ibv_context* context) {
    if (const int failed = world().refusal("ibv_close_device"); failed != 0) return failed;
    const Lock lock(world().mutex);
    Context& gone = context_of(context);
    gone.owner.contexts.erase(&gone);
    --world().live["context"];
    delete &gone;
    return 0;
}

int ibv_query_device(ibv_context* context, ibv_device_attr* out) {
    if (const int failed = world().refusal("ibv_query_device"); failed != 0) return failed;
    const Profile& profile = context_of(context).owner.profile;
    *out = ibv_device_attr{};
    std::strcpy(out->fw_ver, "1.0.double");
    out->max_mr_size = ~0ULL;
    out->page_size_cap = ~0xFFFULL;
    out->vendor_id = profile.vendor;
    out->vendor_part_id = profile.part;
    out->max_qp = 1 << 16;
    out->max_qp_wr = static_cast<int>(profile.max_depth);
    out->max_sge = static_cast<int>(profile.max_sge);
    out->max_sge_rd = static_cast<int>(profile.max_read_sge);
    out->max_cq = 1 << 16;
    out->max_cqe = static_cast<int>(profile.max_cq_entries);
    out->max_mr = 1 << 20;
    out->max_pd = 1 << 16;
    out->max_qp_rd_atom = out->max_qp_init_rd_atom = static_cast<int>(profile.max_reads);
    out->max_mw = profile.has_windows ? 1 << 20 : 0;
    out->max_srq = 1 << 16;
    out->max_srq_wr = static_cast<int>(profile.max_depth);
    out->max_srq_sge = static_cast<int>(profile.max_sge);
    out->atomic_cap = profile.has_atomics ? IBV_ATOMIC_HCA : IBV_ATOMIC_NONE;
    out->phys_port_cnt = static_cast<std::uint8_t>(profile.ports.size());
    if (profile.invalidates) out->device_cap_flags |= IBV_DEVICE_MEM_MGT_EXTENSIONS;
    if (profile.has_windows) {
        out->device_cap_flags |= IBV_DEVICE_MEM_WINDOW | IBV_DEVICE_MEM_WINDOW_TYPE_2B;
    }
    return 0;
}

// Programs give the whole structure; its name here is that of an older layout.
int ibv_query_port(ibv_context* context, std::uint8_t port, _compat_ibv_port_attr* attributes) {
    if (const int failed = world().refusal("ibv_query_port"); failed != 0) return failed;
    const Profile& profile = context_of(context).owner.profile;
    if (port < 1 || port > profile.ports.size()) return EINVAL;
    auto* const out = reinterpret_cast<ibv_port_attr*>(attributes);
    const Port& seen = profile.ports[port - 1U];
    out->state = seen.state;
    out->max_mtu = out->active_mtu = IBV_MTU_4096;
    out->gid_tbl_len = static_cast<int>(2 * seen.addresses.size());
    out->max_msg_sz = profile.max_message;
    out->pkey_tbl_len = 1;
    out->lid = port;
    out->link_layer = profile.link_layer;
    return 0;
}

int ibv_get_async_event(ibv_context* context, ibv_async_event* event) {
    const bool is_taken = context_of(context).events.take(*event, [](const auto& taken) {
        if (Counted* const counted = counted_of(taken)) ++counted->taken;
    });
    return is_taken ? 0 : -1;
}

void ibv_ack_async_event(ibv_async_event* event) {
    const Lock lock(world().mutex);
    if (Counted* const counted = counted_of(*event)) ++counted->acknowledged;
    world().acknowledged.notify_all();
}

ibv_pd* ibv_alloc_pd(ibv_context* context) {
    if (const int failed = world().refusal("ibv_alloc_pd"); failed != 0) {
        errno = failed;
        return nullptr;
    }
    const Lock lock(world().mutex);
    if (context_of(context).owner.is_removed) {
        errno = EIO;
        return nullptr;
    }
    auto* const made = new Domain{};
    made->context = context;
    ++world().live["pd"];
    return made;
}

int ibv_dealloc_pd(ibv_pd* pd) {
    if (const int failed = world().refusal("ibv_dealloc_pd"); failed != 0) return failed;
    const Lock lock(world().mutex);
    auto* const gone = static_cast<Domain*>(pd);
    if (gone->users > 0) return EBUSY;
    --world().live["pd"];
    if (context_of(pd->context).owner.is_removed) {
        world().abandoned.emplace_back(gone);
        return EIO;
    }
    delete gone;
    return 0;
}

int ibv_fork_init() { return 0; }

ibv_fork_status ibv_is_fork_initialized() { return IBV_FORK_UNNEEDED; }

}  // extern "C"

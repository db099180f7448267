// SPDX-License-Identifier: Apache-2.0
// Connections: InfiniBand's three messages and its end in two (Linux, core/cm.c), and iWARP's
// request and reply with an end that both see at once (core/iwcm.c).
#include <algorithm>
#include <cerrno>
#include <tuple>
#include <utility>

#include "cm.hpp"
#include "transport.hpp"

namespace ndv::doubles {
namespace {

// Private data arrives padded to what the message has room for (core/cma.c).
constexpr std::size_t kRequestData = 56;
constexpr std::size_t kReplyData = 196;
constexpr std::size_t kRejectData = 148;
constexpr int kRejectedByConsumer = 28;  // IB_CM_REJ_CONSUMER_DEFINED
constexpr int kNoListener = 8;           // IB_CM_REJ_INVALID_SERVICE_ID

int fail(int os_error) {
    errno = os_error;
    return -1;
}

template <typename Do>
void later(const Id& id, Do act) {
    world().after(std::chrono::microseconds(0), [serial = id.serial, act] {
        const auto found = world().ids.find(serial);
        if (found != world().ids.end()) act(*found->second);
    });
}

void reject(Id& id, const void* data, std::uint8_t size, int why = kRejectedByConsumer) {
    rdma_conn_param said{};
    said.private_data = data;
    said.private_data_len = size;
    id.state = CmState::over;
    if (id.is_iwarp()) {
        tell(id, RDMA_CM_EVENT_REJECTED, -ECONNREFUSED, said, 0);
        // The kernel has tied the queue pair to the attempt.
        if (QueuePair* const qp = find_queue_pair(id.qp_num)) break_down(*qp);
    } else {
        tell(id, RDMA_CM_EVENT_REJECTED, why, said, kRejectData);
    }
}

void part(Id& id) {
    Id* const peer = std::exchange(id.peer, nullptr);
    if (peer != nullptr) peer->peer = nullptr;
}

void finish(Id& id) {
    id.state = CmState::over;
    part(id);
}

// Like rdma_disconnect; also what destruction does.
bool leave(Id& id) {
    Id* const peer = id.peer;
    if (id.state == CmState::connected) {
        if (id.is_iwarp()) {
            end_connection(id.serial, true);
            return true;
        }
        id.state = CmState::leaving;
        if (peer == nullptr) return true;
        if (peer->state == CmState::leaving) {  // both at once
            for (Id* const one : {&id, peer}) tell(*one, RDMA_CM_EVENT_DISCONNECTED);
            peer->state = CmState::over;
            finish(id);
        } else {
            peer->state = CmState::left_by_peer;
            tell(*peer, RDMA_CM_EVENT_DISCONNECTED);
        }
        return true;
    }
    if (id.state == CmState::left_by_peer) {
        if (peer != nullptr) {
            tell(*peer, RDMA_CM_EVENT_DISCONNECTED);
            tell(*peer, RDMA_CM_EVENT_TIMEWAIT_EXIT);
            peer->state = CmState::over;
        }
        finish(id);
        return true;
    }
    return false;
}

Id* listener_for(const sockaddr& address) {
    const std::string host = host_of(address);
    for (const auto& [serial, id] : world().ids) {
        if (id->state != CmState::listening) continue;
        const sockaddr& own = *rdma_get_local_addr(id);
        const std::string heard = host_of(own);
        const bool is_any = heard == "::" || (heard == "0.0.0.0" && address.sa_family == AF_INET);
        if (port_of(own) == port_of(address) && (heard == host || is_any)) return id;
    }
    return nullptr;
}

void deliver_request(Id& id, std::vector<std::byte> data) {
    if (id.state != CmState::asked || id.device->is_removed) return;
    Id* const listener = listener_for(*rdma_get_peer_addr(&id));
    if (listener == nullptr) {
        reject(id, nullptr, 0, kNoListener);
        return;
    }
    auto* const made = new Id{};
    made->channel = listener->channel;
    made->context = listener->context;
    made->ps = listener->ps;
    made->verbs = id.verbs;
    made->device = id.device;
    made->port_num = id.port_num;
    made->route.addr.src_storage = id.route.addr.dst_storage;
    made->route.addr.dst_storage = id.route.addr.src_storage;
    made->serial = world().next_serial++;
    made->state = CmState::incoming;
    made->is_taken = false;
    made->peer = &id;
    id.peer = made;
    world().ids[made->serial] = made;
    rdma_conn_param asked{};
    asked.private_data = data.data();
    asked.private_data_len = static_cast<std::uint8_t>(data.size());
    asked.responder_resources = id.outbound;
    asked.initiator_depth = id.inbound;
    asked.retry_count = id.retries;
    asked.rnr_retry_count = id.pauses;
    asked.qp_num = id.qp_num;
    tell(*made, RDMA_CM_EVENT_CONNECT_REQUEST, 0, asked, id.is_iwarp() ? 0 : kRequestData);
    CmEvent& event = *static_cast<CmChannel&>(*made->channel).events.queued.back();
    event.listen_id = listener;
    event.about = listener;
    event.incoming = made;
}

// iWARP: the kernel ties the queue pairs together, and takes them to RTS.
bool tie(Id& id, Id& peer) {
    QueuePair* const mine = find_queue_pair(id.qp_num);
    QueuePair* const other = find_queue_pair(peer.qp_num);
    if (mine == nullptr || other == nullptr || mine->state != IBV_QPS_INIT ||
        other->state != IBV_QPS_INIT) {
        return false;
    }
    for (const auto& [qp, to, by] :
         {std::tuple{mine, other, &id}, std::tuple{other, mine, &peer}}) {
        qp->peer = to->qp_num;
        qp->state = IBV_QPS_RTS;
        qp->attributes.qp_access_flags =
            IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ;
        qp->cm_id = by->serial;
        world().kick(*qp);
    }
    return true;
}

void establish_iwarp(Id& passive, const rdma_conn_param& answer) {
    Id& active = *passive.peer;
    if (!tie(passive, active)) {
        tell(passive, RDMA_CM_EVENT_CONNECT_ERROR, -EINVAL);
        reject(active, nullptr, 0);
        finish(passive);
        return;
    }
    passive.state = active.state = CmState::connected;
    rdma_conn_param told = answer;
    // What became of the active side's own wishes.
    told.initiator_depth = std::min(active.inbound, answer.initiator_depth);
    told.responder_resources = std::min(active.outbound, answer.responder_resources);
    tell(active, RDMA_CM_EVENT_ESTABLISHED, 0, told, 0);
    tell(passive, RDMA_CM_EVENT_ESTABLISHED);
}

bool is_acceptable(const Id& id, const rdma_conn_param& wanted) {
    // librdmacm, cma.c: ucma_valid_param.
    return wanted.responder_resources <= id.device->profile.max_reads &&
           wanted.initiator_depth <= id.device->profile.max_reads;
}

void remember(Id& id, const rdma_conn_param& wanted) {
    id.qp_num = wanted.qp_num;
    id.inbound = wanted.responder_resources;
    id.outbound = wanted.initiator_depth;
    id.retries = wanted.retry_count;
    id.pauses = wanted.rnr_retry_count;
}

}  // namespace

void end_connection(std::uint64_t serial, bool is_in_order) {
    const auto found = world().ids.find(serial);
    if (found == world().ids.end() || found->second->state != CmState::connected) return;
    Id& id = *found->second;
    Id* const peer = id.peer;
    finish(id);
    for (Id* const one : {&id, peer}) {
        if (one == nullptr) continue;
        one->state = CmState::over;
        tell(*one, RDMA_CM_EVENT_DISCONNECTED);
        if (QueuePair* const qp = find_queue_pair(one->qp_num)) {
            qp->cm_id = 0;
            break_down(*qp, is_in_order ? IBV_QPS_SQD : IBV_QPS_ERR);
        }
    }
}

void remove_ids(Device& device) {
    for (const auto& [serial, id] : world().ids) {
        if (id->device != &device || id->is_removed) continue;
        id->is_removed = true;
        // core/ucma.c, ucma_event_handler: no program knows of a request that it has not taken.
        const bool is_known = id->state != CmState::incoming || id->is_taken;
        id->state = CmState::over;
        if (is_known) tell(*id, RDMA_CM_EVENT_DEVICE_REMOVAL);
    }
}

}  // namespace ndv::doubles

using namespace ndv::doubles;

extern "C" {

int rdma_listen(rdma_cm_id* id, int) {
    if (const int failed = world().refusal("rdma_listen"); failed != 0) return fail(failed);
    const Lock lock(world().mutex);
    auto& mine = static_cast<Id&>(*id);
    if (mine.state != CmState::bound) return fail(EINVAL);
    if (mine.is_shared && listener_for(*rdma_get_local_addr(id)) != nullptr) {
        return fail(EADDRINUSE);
    }
    mine.state = CmState::listening;
    return 0;
}

int rdma_connect(rdma_cm_id* id, rdma_conn_param* wanted) {
    if (const int failed = world().refusal("rdma_connect"); failed != 0) return fail(failed);
    const Lock lock(world().mutex);
    auto& mine = static_cast<Id&>(*id);
    if (mine.state != CmState::routed || mine.is_removed) return fail(EINVAL);
    if (!is_acceptable(mine, *wanted)) return fail(EINVAL);
    if (!mine.is_iwarp() && wanted->private_data_len > kRequestData) return fail(EINVAL);
    if (mine.is_iwarp() && listener_for(*rdma_get_peer_addr(id)) == nullptr) {
        return fail(ECONNREFUSED);
    }
    remember(mine, *wanted);
    mine.state = CmState::asked;
    const auto* const bytes = static_cast<const std::byte*>(wanted->private_data);
    std::vector<std::byte> data;
    if (bytes != nullptr) data.assign(bytes, bytes + wanted->private_data_len);
    later(mine, [data](Id& asking) { deliver_request(asking, data); });
    return 0;
}

int rdma_accept(rdma_cm_id* id, rdma_conn_param* wanted) {
    if (const int failed = world().refusal("rdma_accept"); failed != 0) return fail(failed);
    const Lock lock(world().mutex);
    auto& mine = static_cast<Id&>(*id);
    if (mine.state != CmState::incoming || mine.peer == nullptr || mine.is_removed ||
        !is_acceptable(mine, *wanted)) {
        return fail(EINVAL);
    }
    remember(mine, *wanted);
    rdma_conn_param answer = *wanted;
    answer.responder_resources = wanted->initiator_depth;
    answer.initiator_depth = wanted->responder_resources;
    if (mine.is_iwarp()) {
        // From the active side: what it may have in flight is what this side takes.
        answer.responder_resources = wanted->responder_resources;
        answer.initiator_depth = wanted->initiator_depth;
        establish_iwarp(mine, answer);
        return 0;
    }
    mine.state = CmState::accepted;
    mine.peer->state = CmState::answered;
    tell(*mine.peer, RDMA_CM_EVENT_CONNECT_RESPONSE, 0, answer, kReplyData);
    return 0;
}

int rdma_establish(rdma_cm_id* id) {
    if (const int failed = world().refusal("rdma_establish"); failed != 0) return fail(failed);
    const Lock lock(world().mutex);
    auto& mine = static_cast<Id&>(*id);
    if (mine.state != CmState::answered || mine.peer == nullptr) return fail(EINVAL);
    mine.state = mine.peer->state = CmState::connected;
    tell(*mine.peer, RDMA_CM_EVENT_ESTABLISHED);
    return 0;
}

int rdma_notify(rdma_cm_id* id, ibv_event_type event) {
    const Lock lock(world().mutex);
    auto& mine = static_cast<Id&>(*id);
    if (event != IBV_EVENT_COMM_EST || mine.state != CmState::accepted) return fail(EINVAL);
    mine.state = CmState::connected;
    tell(mine, RDMA_CM_EVENT_ESTABLISHED);
    return 0;
}

int rdma_reject(rdma_cm_id* id, const void* data, std::uint8_t size) {
    if (const int failed = world().refusal("rdma_reject"); failed != 0) return fail(failed);
    const Lock lock(world().mutex);
    auto& mine = static_cast<Id&>(*id);
    // core/cm.c: ib_send_cm_rej serves all of these.
    const bool is_answer =
        mine.state == CmState::incoming ||
        (!mine.is_iwarp() && (mine.state == CmState::answered || mine.state == CmState::accepted));
    if (!is_answer || mine.is_removed) return fail(EINVAL);
    if (mine.peer != nullptr) reject(*mine.peer, data, size);
    finish(mine);
    return 0;
}

int rdma_disconnect(rdma_cm_id* id) {
    if (const int failed = world().refusal("rdma_disconnect"); failed != 0) return fail(failed);
    const Lock lock(world().mutex);
    return leave(static_cast<Id&>(*id)) ? 0 : fail(EINVAL);
}

// What librdmacm would set before each transition (core/cma.c, rdma_init_qp_attr).
int rdma_init_qp_attr(rdma_cm_id* id, ibv_qp_attr* out, int* mask) {
    if (const int failed = world().refusal("rdma_init_qp_attr"); failed != 0) return fail(failed);
    const Lock lock(world().mutex);
    auto& mine = static_cast<Id&>(*id);
    if (mine.device == nullptr || mine.is_removed) return fail(EINVAL);
    const Id* const peer = mine.peer;
    const bool is_known = peer != nullptr && mine.state != CmState::asked;
    *mask = IBV_QP_STATE;
    switch (out->qp_state) {
        case IBV_QPS_INIT:
            *mask |= IBV_QP_ACCESS_FLAGS | IBV_QP_PKEY_INDEX | IBV_QP_PORT;
            out->qp_access_flags = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
                                   IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;
            out->port_num = mine.port_num;
            return 0;
        case IBV_QPS_RTR:
            if (!is_known) return fail(EINVAL);
            *mask |= IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                     IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER;
            out->dest_qp_num = peer->qp_num;
            out->path_mtu = IBV_MTU_4096;
            out->min_rnr_timer = 0;
            // The request's, before the accept has named this side's own.
            out->max_dest_rd_atomic =
                mine.state == CmState::incoming ? peer->outbound : mine.inbound;
            return 0;
        case IBV_QPS_RTS:
            if (!is_known) return fail(EINVAL);
            *mask |= IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
                     IBV_QP_MAX_QP_RD_ATOMIC;
            out->timeout = mine.ack_timeout;
            out->retry_cnt = peer->retries;
            out->rnr_retry = peer->pauses;
            out->max_rd_atomic = mine.state == CmState::incoming ? peer->inbound : mine.outbound;
            return 0;
        default:
            return fail(EINVAL);
    }
}

int rdma_destroy_id(rdma_cm_id* id) {
    static_cast<void>(world().refusal("rdma_destroy_id"));  // it may be slow, but does not fail
    Lock lock(world().mutex);
    auto* const gone = static_cast<Id*>(id);
    Id* const peer = gone->peer;
    const bool waits = peer != nullptr && !gone->is_removed &&
                       (gone->state == CmState::asked || gone->state == CmState::incoming ||
                        gone->state == CmState::answered || gone->state == CmState::accepted);
    if (waits) {
        reject(*peer, nullptr, 0);
    } else if (!gone->is_removed) {
        leave(*gone);
    }
    part(*gone);
    world().ids.erase(gone->serial);
    // Requests that no program has taken go with their listener.
    auto& queued = static_cast<CmChannel&>(*gone->channel).events.queued;
    std::vector<Id*> lost;
    std::erase_if(queued, [gone, &lost](const std::unique_ptr<CmEvent>& event) {
        if (event->about != gone && event->id != gone) return false;
        if (event->incoming != nullptr) lost.push_back(event->incoming);
        return true;
    });
    for (Id* const one : lost) {
        if (one->peer != nullptr) reject(*one->peer, nullptr, 0);
        part(*one);
        world().ids.erase(one->serial);
        delete one;
    }
    wait_for(lock, gone->events);
    --world().live["cm_id"];
    delete gone;
    return 0;
}

}  // extern "C"

// SPDX-License-Identifier: Apache-2.0
// Calls about queue pairs and shared receive queues, and posting to them.
#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "calls.hpp"
#include "memory.hpp"
#include "transport.hpp"

using namespace ndv::doubles;

namespace {

std::uint32_t rounded(const Profile& profile, std::uint32_t depth) {
    return profile.rounds_up ? std::bit_ceil(std::max(1U, depth)) : depth;
}

bool is_possible(const Profile& profile, const ibv_qp_cap& cap) {
    return cap.max_send_wr <= profile.max_depth && cap.max_recv_wr <= profile.max_depth &&
           cap.max_send_sge <= profile.max_sge && cap.max_recv_sge <= profile.max_sge &&
           cap.max_inline_data <= profile.max_inline;
}

void remove_completions_of(CompletionQueue& cq, std::uint32_t qp_num) {
    const auto is_its = [qp_num](const Completion& one) { return one.wc.qp_num == qp_num; };
    std::erase_if(cq.ready, is_its);
    std::erase_if(cq.held, is_its);
}

std::uint32_t unused_number() {
    static std::uint32_t next = 0x100;
    do {
        next = next >= 0xFFFFFE ? 0x100 : next + 1;
    } while (world().queue_pairs.contains(next));
    return next;
}

template <typename Request>
std::vector<ibv_sge> pieces_of(const Request& wr) {
    return {wr.sg_list, wr.sg_list + wr.num_sge};
}

}  // namespace

extern "C" {

ibv_qp* ibv_create_qp(ibv_pd* pd, ibv_qp_init_attr* wanted) {
    if (const int failed = world().refusal("ibv_create_qp"); failed != 0) {
        errno = failed;
        return nullptr;
    }
    const Lock lock(world().mutex);
    Device& device = context_of(pd->context).owner;
    const Profile& profile = device.profile;
    if (device.is_removed || !profile.has_reliable_connections || wanted->qp_type != IBV_QPT_RC ||
        !is_possible(profile, wanted->cap)) {
        errno = device.is_removed ? EIO : !profile.has_reliable_connections ? EOPNOTSUPP : EINVAL;
        return nullptr;
    }
    auto* const made = new QueuePair{};
    made->context = pd->context;
    made->qp_context = wanted->qp_context;
    made->pd = pd;
    made->send_cq = wanted->send_cq;
    made->recv_cq = wanted->recv_cq;
    made->srq = wanted->srq;
    made->qp_num = unused_number();
    made->qp_type = IBV_QPT_RC;
    made->device = &device;
    made->signals_all = wanted->sq_sig_all != 0;
    made->cap = wanted->cap;
    made->cap.max_send_wr = rounded(profile, wanted->cap.max_send_wr);
    made->cap.max_recv_wr = rounded(profile, wanted->cap.max_recv_wr);
    made->cap.max_inline_data = std::max(wanted->cap.max_inline_data, profile.least_inline);
    wanted->cap = made->cap;
    ++made->initiator_cq().users;
    ++made->receive_cq().users;
    if (made->srq != nullptr) ++made->shared()->users;
    ++static_cast<Domain*>(pd)->users;
    world().queue_pairs[made->qp_num] = made;
    ++world().live["qp"];
    return made;
}

int ibv_destroy_qp(ibv_qp* qp) {
    if (const int failed = world().refusal("ibv_destroy_qp"); failed != 0) return failed;
    Lock lock(world().mutex);
    auto* const gone = static_cast<QueuePair*>(qp);
    const bool is_removed = gone->device->is_removed;
    for (const auto& [number, window] : gone->device->windows) {
        if (!is_removed && window->is_valid && window->qp_num == gone->qp_num) return EBUSY;
    }
    if (gone->profile().is_iwarp()) tell_connection(*gone);
    world().queue_pairs.erase(gone->qp_num);
    std::erase_if(context_of(qp->context).events.queued,
                  [gone](const ibv_async_event& event) { return event.element.qp == gone; });
    for (CompletionQueue* const cq : {&gone->initiator_cq(), &gone->receive_cq()}) {
        remove_completions_of(*cq, gone->qp_num);
        --cq->users;
    }
    if (gone->srq != nullptr) --gone->shared()->users;
    --static_cast<Domain*>(qp->pd)->users;
    --world().live["qp"];
    if (is_removed) {
        world().abandoned.emplace_back(gone);
        return EIO;
    }
    wait_for(lock, gone->events);
    delete gone;
    return 0;
}

int ibv_modify_qp(ibv_qp* qp, ibv_qp_attr* attributes, int mask) {
    const std::string call = "ibv_modify_qp:" + std::to_string(attributes->qp_state);
    if (const int failed = world().refusal(call); failed != 0) return failed;
    const Lock lock(world().mutex);
    auto& mine = static_cast<QueuePair&>(*qp);
    if (mine.device->is_removed) return EIO;
    const Profile& profile = mine.profile();
    const ibv_qp_state state = (mask & IBV_QP_STATE) != 0 ? attributes->qp_state : mine.state;
    // InfiniBand architecture, 10.3.1: the transitions that there are.
    const bool is_next = state == IBV_QPS_ERR || state == IBV_QPS_RESET ||
                         (state == IBV_QPS_INIT && mine.state <= IBV_QPS_INIT) ||
                         (state == IBV_QPS_RTR && mine.state == IBV_QPS_INIT) ||
                         (state == IBV_QPS_RTS && mine.state == IBV_QPS_RTR);
    if (!is_next || attributes->max_rd_atomic > profile.max_reads ||
        attributes->max_dest_rd_atomic > profile.max_reads ||
        ((mask & IBV_QP_PORT) != 0 &&
         (attributes->port_num < 1 || attributes->port_num > profile.ports.size()))) {
        return EINVAL;
    }
    if ((mask & IBV_QP_ACCESS_FLAGS) != 0) {
        mine.attributes.qp_access_flags = attributes->qp_access_flags;
    }
    if ((mask & IBV_QP_PORT) != 0) mine.attributes.port_num = attributes->port_num;
    if ((mask & IBV_QP_DEST_QPN) != 0) mine.peer = attributes->dest_qp_num;
    if ((mask & IBV_QP_MAX_QP_RD_ATOMIC) != 0) {
        mine.attributes.max_rd_atomic = attributes->max_rd_atomic;
    }
    if ((mask & IBV_QP_MAX_DEST_RD_ATOMIC) != 0) {
        mine.attributes.max_dest_rd_atomic = attributes->max_dest_rd_atomic;
    }
    if ((mask & IBV_QP_TIMEOUT) != 0) mine.attributes.timeout = attributes->timeout;
    if ((mask & IBV_QP_RETRY_CNT) != 0) mine.attributes.retry_cnt = attributes->retry_cnt;
    if (state == IBV_QPS_ERR) {
        break_down(mine);
        return 0;
    }
    mine.state = state;
    world().kick(mine);
    return 0;
}

int ibv_query_qp(ibv_qp* qp, ibv_qp_attr* attributes, int, ibv_qp_init_attr* made) {
    if (const int failed = world().refusal("ibv_query_qp"); failed != 0) return failed;
    const Lock lock(world().mutex);
    auto& mine = static_cast<QueuePair&>(*qp);
    if (mine.device->is_removed) return EIO;
    *attributes = mine.attributes;
    attributes->qp_state = mine.state;
    *made = ibv_qp_init_attr{};
    made->cap = mine.cap;
    return 0;
}

ibv_srq* ibv_create_srq(ibv_pd* pd, ibv_srq_init_attr* wanted) {
    if (const int failed = world().refusal("ibv_create_srq"); failed != 0) {
        errno = failed;
        return nullptr;
    }
    const Lock lock(world().mutex);
    Device& device = context_of(pd->context).owner;
    if (device.is_removed || wanted->attr.max_wr > device.profile.max_depth ||
        wanted->attr.max_sge > device.profile.max_sge) {
        errno = device.is_removed ? EIO : EINVAL;
        return nullptr;
    }
    auto* const made = new SharedQueue{};
    made->context = pd->context;
    made->pd = pd;
    made->device = &device;
    made->depth = wanted->attr.max_wr = rounded(device.profile, wanted->attr.max_wr);
    made->max_sge = wanted->attr.max_sge;
    ++static_cast<Domain*>(pd)->users;
    ++world().live["srq"];
    return made;
}

int ibv_modify_srq(ibv_srq* srq, ibv_srq_attr* attributes, int mask) {
    if (const int failed = world().refusal("ibv_modify_srq"); failed != 0) return failed;
    const Lock lock(world().mutex);
    auto& mine = static_cast<SharedQueue&>(*srq);
    if (mine.device->is_removed) return EIO;
    // hw/mlx5/srq.c: mlx5_ib_modify_srq knows no other depth than the first.
    if ((mask & IBV_SRQ_MAX_WR) != 0) return EINVAL;
    if ((mask & IBV_SRQ_LIMIT) != 0) mine.limit = attributes->srq_limit;
    return 0;
}

int ibv_destroy_srq(ibv_srq* srq) {
    if (const int failed = world().refusal("ibv_destroy_srq"); failed != 0) return failed;
    Lock lock(world().mutex);
    auto* const gone = static_cast<SharedQueue*>(srq);
    if (gone->users > 0) return EBUSY;
    std::erase_if(context_of(srq->context).events.queued,
                  [gone](const ibv_async_event& event) { return event.element.srq == gone; });
    --static_cast<Domain*>(srq->pd)->users;
    --world().live["srq"];
    if (gone->device->is_removed) {
        world().abandoned.emplace_back(gone);
        return EIO;
    }
    wait_for(lock, gone->events);
    delete gone;
    return 0;
}

}  // extern "C"

namespace ndv::doubles {
namespace {

int refusal_of(const QueuePair& qp, const ibv_send_wr& wr) {
    const Profile& profile = qp.profile();
    if (qp.state < IBV_QPS_RTS) return EINVAL;
    if (is_over(qp) && profile.refuses_posts_in_error) return EINVAL;
    if (qp.sends.size() >= qp.cap.max_send_wr) return ENOMEM;
    const auto count = static_cast<std::uint32_t>(wr.num_sge);
    const bool is_read = wr.opcode == IBV_WR_RDMA_READ;
    if (count > std::max(1U, qp.cap.max_send_sge) || (is_read && count > profile.max_read_sge)) {
        return EINVAL;
    }
    const bool is_atomic =
        wr.opcode == IBV_WR_ATOMIC_CMP_AND_SWP || wr.opcode == IBV_WR_ATOMIC_FETCH_AND_ADD;
    const bool is_immediate =
        wr.opcode == IBV_WR_RDMA_WRITE_WITH_IMM || wr.opcode == IBV_WR_SEND_WITH_IMM;
    if ((is_atomic && !profile.has_atomics) || (is_immediate && profile.is_iwarp())) return EINVAL;
    if (wr.opcode == IBV_WR_BIND_MW && !profile.has_windows) return EOPNOTSUPP;
    std::uint64_t length = 0;
    for (std::uint32_t i = 0; i < count; ++i) length += wr.sg_list[i].length;
    const bool is_inline = (wr.send_flags & IBV_SEND_INLINE) != 0;
    return is_inline && length > qp.cap.max_inline_data ? EINVAL : 0;
}

Send taken_from(const ibv_send_wr& wr) {
    Send out{wr, pieces_of(wr), {}, (wr.send_flags & IBV_SEND_INLINE) != 0};
    for (const ibv_sge& one : out.pieces) {
        if (!out.is_inline) break;
        const auto* const from = reinterpret_cast<const std::byte*>(one.addr);
        out.inlined.insert(out.inlined.end(), from, from + one.length);
    }
    return out;
}

template <typename Owner>
int add_receive(Owner& owner, std::uint32_t depth, std::uint32_t max_sge, const ibv_recv_wr& wr) {
    if (owner.receives.size() >= depth) return ENOMEM;
    if (static_cast<std::uint32_t>(wr.num_sge) > std::max(1U, max_sge)) return EINVAL;
    owner.receives.push_back({wr.wr_id, pieces_of(wr)});
    return 0;
}

}  // namespace

int post_send(ibv_qp* qp, ibv_send_wr* wr, ibv_send_wr** refused) {
    auto& mine = static_cast<QueuePair&>(*qp);
    for (; wr != nullptr; wr = wr->next) {
        int failed = world().refusal("ibv_post_send");
        const Lock lock(world().mutex);
        // A removed device's doorbell is a page of zeros: nothing tells.
        if (failed == 0) failed = refusal_of(mine, *wr);
        if (failed != 0) {
            *refused = wr;
            return failed * mine.profile().sign_of_errors;
        }
        mine.sends.push_back(taken_from(*wr));
        world().kick(mine);
    }
    return 0;
}

int post_recv(ibv_qp* qp, ibv_recv_wr* wr, ibv_recv_wr** refused) {
    auto& mine = static_cast<QueuePair&>(*qp);
    for (; wr != nullptr; wr = wr->next) {
        int failed = world().refusal("ibv_post_recv");
        const Lock lock(world().mutex);
        const bool is_refused = is_over(mine) && mine.profile().refuses_posts_in_error;
        if (failed == 0 && (mine.state == IBV_QPS_RESET || is_refused)) failed = EINVAL;
        if (failed == 0) {
            failed = add_receive(mine, mine.cap.max_recv_wr, mine.cap.max_recv_sge, *wr);
        }
        if (failed != 0) {
            *refused = wr;
            return failed * mine.profile().sign_of_errors;
        }
        world().kick(mine);
        if (QueuePair* const peer = find_queue_pair(mine.peer)) world().kick(*peer);
    }
    return 0;
}

int post_srq_recv(ibv_srq* srq, ibv_recv_wr* wr, ibv_recv_wr** refused) {
    auto& mine = static_cast<SharedQueue&>(*srq);
    for (; wr != nullptr; wr = wr->next) {
        int failed = world().refusal("ibv_post_srq_recv");
        const Lock lock(world().mutex);
        if (failed == 0) failed = add_receive(mine, mine.depth, mine.max_sge, *wr);
        if (failed != 0) {
            *refused = wr;
            return failed * mine.device->profile.sign_of_errors;
        }
    }
    return 0;
}

}  // namespace ndv::doubles

// SPDX-License-Identifier: Apache-2.0
// Requests, as the InfiniBand architecture specification (chapters 9 and 10) and RFC 5040 have
// them: one at a time, in order, each checked where its device would check it.
#include "transport.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "cm.hpp"
#include "memory.hpp"

namespace ndv::doubles {
namespace {

// How a request ends that is not done yet, or not well.
struct Outcome {
    enum class Kind { done, waits, failed } kind = Kind::done;
    ibv_wc_status status = IBV_WC_SUCCESS;
};
constexpr Outcome kDone{};
constexpr Outcome kWaits{Outcome::Kind::waits, IBV_WC_SUCCESS};
Outcome failed(ibv_wc_status status) { return {Outcome::Kind::failed, status}; }

// Anything, where the specification leaves a field undefined.
constexpr unsigned kUndefined = 0xDBDBDBDB;

// A requester whose peer does not answer says so after this time, whatever it was set up for: the
// real one is 4.096 us * 2^timeout * retries (InfiniBand architecture, 9.7.6.1.3).
Clock::duration patience_of(const QueuePair& qp) {
    const auto once = std::chrono::nanoseconds(4096) * (1ULL << qp.attributes.timeout);
    return once * (qp.attributes.retry_cnt + 1);
}

void complete(QueuePair& qp, const Send& send, ibv_wc_status status) {
    if (status == IBV_WC_SUCCESS && !qp.signals_all &&
        (send.wr.send_flags & IBV_SEND_SIGNALED) == 0) {
        return;
    }
    ibv_wc wc{};
    if (status != IBV_WC_SUCCESS && qp.profile().leaves_fields_undefined) {
        std::memset(&wc, static_cast<int>(kUndefined & 0xFFU), sizeof wc);
    }
    wc.wr_id = send.wr.wr_id;
    wc.status = status;
    wc.qp_num = qp.qp_num;
    wc.vendor_err = status == IBV_WC_SUCCESS ? 0 : qp.profile().vendor_error;
    if (status == IBV_WC_SUCCESS) {
        switch (send.wr.opcode) {
            case IBV_WR_RDMA_WRITE:
            case IBV_WR_RDMA_WRITE_WITH_IMM:
                wc.opcode = IBV_WC_RDMA_WRITE;
                break;
            case IBV_WR_RDMA_READ:
                wc.opcode = IBV_WC_RDMA_READ;
                break;
            case IBV_WR_ATOMIC_CMP_AND_SWP:
                wc.opcode = IBV_WC_COMP_SWAP;
                break;
            case IBV_WR_ATOMIC_FETCH_AND_ADD:
                wc.opcode = IBV_WC_FETCH_ADD;
                break;
            case IBV_WR_BIND_MW:
                wc.opcode = IBV_WC_BIND_MW;
                break;
            case IBV_WR_LOCAL_INV:
                wc.opcode = IBV_WC_LOCAL_INV;
                break;
            default:
                wc.opcode = IBV_WC_SEND;
        }
    }
    push(qp.initiator_cq(), wc, false, false);
}

void complete(QueuePair& qp, const Receive& receive, ibv_wc_status status, ibv_wc wc = {}) {
    if (status != IBV_WC_SUCCESS && qp.profile().leaves_fields_undefined) {
        std::memset(&wc, static_cast<int>(kUndefined & 0xFFU), sizeof wc);
    }
    const bool is_solicited = status == IBV_WC_SUCCESS && wc.src_qp != 0;
    wc.src_qp = 0;
    wc.wr_id = receive.id;
    wc.status = status;
    wc.qp_num = qp.qp_num;
    wc.vendor_err = status == IBV_WC_SUCCESS ? 0 : qp.profile().vendor_error;
    push(qp.receive_cq(), wc, is_solicited, true);
}

void flush(QueuePair& qp) {
    qp.is_flushing = false;
    if (qp.device->is_removed) return;
    while (!qp.sends.empty()) {
        const Send send = std::move(qp.sends.front());
        qp.sends.pop_front();
        complete(qp, send, IBV_WC_WR_FLUSH_ERR);
    }
    while (!qp.receives.empty()) {
        const Receive receive = std::move(qp.receives.front());
        qp.receives.pop_front();
        complete(qp, receive, IBV_WC_WR_FLUSH_ERR);
    }
}

// The connection is at its end by a protocol's own means: both ends.
void terminate(QueuePair& requester, QueuePair& responder, ibv_wc_status first) {
    if (first != IBV_WC_WR_FLUSH_ERR && !requester.sends.empty()) {
        const Send send = std::move(requester.sends.front());
        requester.sends.pop_front();
        complete(requester, send, first);
    }
    break_down(requester);
    break_down(responder);
}

// ---- memory ---------------------------------------------------------------------------------

using Pieces = std::vector<Piece>;

// The memory of a request's own list; nothing: a key or bound is wrong.
std::optional<Pieces> local_memory(QueuePair& qp, const std::vector<ibv_sge>& list, int rights) {
    Pieces out;
    for (const ibv_sge& one : list) {
        if (one.length == 0) continue;
        std::byte* const at = find_local(*qp.device, *qp.pd, one, rights);
        if (at == nullptr) return std::nullopt;
        out.push_back({at, one.length});
    }
    return out;
}

// The memory that a request sends from.
std::optional<Pieces> source_of(QueuePair& qp, Send& send) {
    if (!send.is_inline) return local_memory(qp, send.pieces, 0);
    Pieces out;
    if (!send.inlined.empty()) out.push_back({send.inlined.data(), send.inlined.size()});
    return out;
}

// ---- responder ------------------------------------------------------------------------------

std::optional<Receive> take_receive(QueuePair& qp) {
    std::deque<Receive>& queue = qp.srq != nullptr ? qp.shared()->receives : qp.receives;
    if (queue.empty()) return std::nullopt;
    Receive out = std::move(queue.front());
    queue.pop_front();
    if (SharedQueue* const shared = qp.shared();
        shared != nullptr && shared->limit > 0 && queue.size() < shared->limit) {
        shared->limit = 0;
        report(context_of(shared->context), IBV_EVENT_SRQ_LIMIT_REACHED, shared);
    }
    return out;
}

bool has_receive(QueuePair& qp) {
    return !(qp.srq != nullptr ? qp.shared()->receives : qp.receives).empty();
}

// InfiniBand: the requester gets a NAK and has an error of its own; iWARP: a Terminate comes back.
Outcome refuse(QueuePair& requester, QueuePair& responder, ibv_wc_status status,
               bool was_sent = true) {
    if (!requester.profile().is_iwarp()) {
        if (status == IBV_WC_REM_ACCESS_ERR) {
            report(context_of(responder.context), IBV_EVENT_QP_ACCESS_ERR, &responder);
        } else if (status == IBV_WC_REM_INV_REQ_ERR) {
            report(context_of(responder.context), IBV_EVENT_QP_REQ_ERR, &responder);
        }
        break_down(responder);
        return failed(status);
    }
    // A Write or Send is done when it has left, unless the device waits for the Terminate.
    if (was_sent && requester.profile().terminated == IBV_WC_WR_FLUSH_ERR) {
        const Send send = std::move(requester.sends.front());
        requester.sends.pop_front();
        complete(requester, send, IBV_WC_SUCCESS);
    }
    terminate(requester, responder, requester.profile().terminated);
    return kWaits;
}

Outcome deliver(QueuePair& requester, QueuePair& responder, Send& send, const Pieces& source,
                std::uint64_t length) {
    if (!has_receive(responder)) {
        if (!requester.profile().is_iwarp()) return kWaits;  // a pause, repeated without end
        return refuse(requester, responder, IBV_WC_REM_OP_ERR);
    }
    const bool has_data = send.wr.opcode != IBV_WR_RDMA_WRITE_WITH_IMM;
    if (send.wr.opcode == IBV_WR_SEND_WITH_INV &&
        !invalidate(*responder.device, *responder.pd, send.wr.invalidate_rkey, responder.qp_num)) {
        return refuse(requester, responder, IBV_WC_REM_ACCESS_ERR);
    }
    const Receive receive = *take_receive(responder);
    if (has_data) {
        std::uint64_t room = 0;
        for (const ibv_sge& one : receive.pieces) room += one.length;
        if (length > room) {
            complete(responder, receive, IBV_WC_LOC_LEN_ERR);
            return refuse(requester, responder, IBV_WC_REM_INV_REQ_ERR);
        }
        const auto sink = local_memory(responder, receive.pieces, IBV_ACCESS_LOCAL_WRITE);
        if (!sink) {
            complete(responder, receive, IBV_WC_LOC_PROT_ERR);
            return refuse(requester, responder, IBV_WC_REM_OP_ERR);
        }
        copy(source, *sink);
    }
    ibv_wc wc{};
    wc.opcode = has_data ? IBV_WC_RECV : IBV_WC_RECV_RDMA_WITH_IMM;
    wc.byte_len = static_cast<std::uint32_t>(length);
    // Carried to the completion queue by a field that means nothing here.
    wc.src_qp = (send.wr.send_flags & IBV_SEND_SOLICITED) != 0 ? 1 : 0;
    if (send.wr.opcode == IBV_WR_SEND_WITH_INV) {
        wc.wc_flags = IBV_WC_WITH_INV;
        wc.invalidated_rkey = send.wr.invalidate_rkey;
    } else if (!has_data || send.wr.opcode == IBV_WR_SEND_WITH_IMM) {
        wc.wc_flags = IBV_WC_WITH_IMM;
        wc.imm_data = send.wr.imm_data;
    }
    complete(responder, receive, IBV_WC_SUCCESS, wc);
    return kDone;
}

Outcome write(QueuePair& requester, QueuePair& responder, Send& send, const Pieces& source,
              std::uint64_t length) {
    const bool tells = send.wr.opcode == IBV_WR_RDMA_WRITE_WITH_IMM;
    if (tells && !has_receive(responder)) return kWaits;
    std::byte* const at = find_remote(responder, send.wr.wr.rdma.rkey, send.wr.wr.rdma.remote_addr,
                                      length, IBV_ACCESS_REMOTE_WRITE);
    if (length > 0 && at == nullptr) return refuse(requester, responder, IBV_WC_REM_ACCESS_ERR);
    if (length > 0) copy(source, {{at, length}});
    return tells ? deliver(requester, responder, send, source, length) : kDone;
}

// A device with the places that were agreed on has one for each Read in flight. The double refuses
// the first of a requester that might have more in flight.
bool has_places(const QueuePair& requester, const QueuePair& responder) {
    return requester.attributes.max_rd_atomic > 0 &&
           requester.attributes.max_rd_atomic <= responder.attributes.max_dest_rd_atomic;
}

Outcome read(QueuePair& requester, QueuePair& responder, const Send& send) {
    const bool is_iwarp = requester.profile().is_iwarp();
    if (!is_iwarp && !has_places(requester, responder)) {
        return refuse(requester, responder, IBV_WC_REM_INV_REQ_ERR);
    }
    // RFC 5040: the sink is a token that peers may write through.
    const int rights = IBV_ACCESS_LOCAL_WRITE | (is_iwarp ? IBV_ACCESS_REMOTE_WRITE : 0);
    const auto sink = local_memory(requester, send.pieces, rights);
    if (!sink) return failed(IBV_WC_LOC_PROT_ERR);
    std::uint64_t length = 0;
    for (const Piece& piece : *sink) length += piece.size;
    std::byte* const at = find_remote(responder, send.wr.wr.rdma.rkey, send.wr.wr.rdma.remote_addr,
                                      length, IBV_ACCESS_REMOTE_READ);
    if (length > 0 && at == nullptr) {
        return refuse(requester, responder, IBV_WC_REM_ACCESS_ERR, false);
    }
    if (length > 0) copy({{at, length}}, *sink);
    return kDone;
}

Outcome change_word(QueuePair& requester, QueuePair& responder, const Send& send) {
    if (!has_places(requester, responder)) {
        return refuse(requester, responder, IBV_WC_REM_INV_REQ_ERR);
    }
    const auto sink = local_memory(requester, send.pieces, IBV_ACCESS_LOCAL_WRITE);
    if (!sink) return failed(IBV_WC_LOC_PROT_ERR);
    std::uint64_t word = 0;
    const auto& wanted = send.wr.wr.atomic;
    if (wanted.remote_addr % sizeof word != 0) {
        return refuse(requester, responder, IBV_WC_REM_INV_REQ_ERR);
    }
    std::byte* const at = find_remote(responder, wanted.rkey, wanted.remote_addr, sizeof word,
                                      IBV_ACCESS_REMOTE_ATOMIC);
    if (at == nullptr) return refuse(requester, responder, IBV_WC_REM_ACCESS_ERR);
    std::memcpy(&word, at, sizeof word);
    const std::uint64_t before = word;
    if (send.wr.opcode == IBV_WR_ATOMIC_FETCH_AND_ADD) {
        word += wanted.compare_add;
    } else if (word == wanted.compare_add) {
        word = wanted.swap;
    }
    std::memcpy(at, &word, sizeof word);
    std::uint64_t result = before;
    copy({{reinterpret_cast<std::byte*>(&result), sizeof result}}, *sink);
    return kDone;
}

// ---- requester ------------------------------------------------------------------------------

Outcome execute(QueuePair& qp, Send& send) {
    if (send.wr.opcode == IBV_WR_BIND_MW) {
        return bind(qp, send.wr) ? kDone : failed(IBV_WC_MW_BIND_ERR);
    }
    if (send.wr.opcode == IBV_WR_LOCAL_INV) {
        return invalidate(*qp.device, *qp.pd, send.wr.invalidate_rkey, qp.qp_num)
                   ? kDone
                   : failed(IBV_WC_LOC_QP_OP_ERR);
    }
    QueuePair* const peer = find_queue_pair(qp.peer);
    const bool is_there = peer != nullptr && peer->peer == qp.qp_num && !peer->device->is_removed &&
                          (peer->state == IBV_QPS_RTR || peer->state == IBV_QPS_RTS);
    if (!is_there) {
        if (!qp.profile().is_iwarp()) return kWaits;
        break_down(qp);
        return kWaits;
    }
    const bool has_own_data = send.wr.opcode != IBV_WR_RDMA_READ &&
                              send.wr.opcode != IBV_WR_ATOMIC_CMP_AND_SWP &&
                              send.wr.opcode != IBV_WR_ATOMIC_FETCH_AND_ADD;
    Pieces source;
    std::uint64_t length = 0;
    if (has_own_data) {
        auto found = source_of(qp, send);
        if (!found) return failed(IBV_WC_LOC_PROT_ERR);
        source = std::move(*found);
        for (const Piece& piece : source) length += piece.size;
        if (length > qp.profile().max_message) return failed(IBV_WC_LOC_LEN_ERR);
    }
    switch (send.wr.opcode) {
        case IBV_WR_RDMA_WRITE:
        case IBV_WR_RDMA_WRITE_WITH_IMM:
            return write(qp, *peer, send, source, length);
        case IBV_WR_RDMA_READ:
            return read(qp, *peer, send);
        case IBV_WR_ATOMIC_CMP_AND_SWP:
        case IBV_WR_ATOMIC_FETCH_AND_ADD:
            return change_word(qp, *peer, send);
        default:
            return deliver(qp, *peer, send, source, length);
    }
}

// The request stays first. InfiniBand asks again until its patience is over, where the peer is
// gone; where it only has no receive, without end.
void wait_for_peer(QueuePair& qp) {
    if (qp.state != IBV_QPS_RTS || qp.sends.empty()) return;
    const QueuePair* const peer = find_queue_pair(qp.peer);
    const bool is_there = peer != nullptr && peer->peer == qp.qp_num &&
                          (peer->state == IBV_QPS_RTR || peer->state == IBV_QPS_RTS) &&
                          !peer->device->is_removed;
    const auto at = Clock::now();
    if (is_there) qp.unanswered_since.reset();
    if (!is_there && !qp.unanswered_since) qp.unanswered_since = at;
    if (!is_there && at - *qp.unanswered_since >= patience_of(qp)) {
        const Send send = std::move(qp.sends.front());
        qp.sends.pop_front();
        complete(qp, send, IBV_WC_RETRY_EXC_ERR);
        break_down(qp);
        return;
    }
    world().after(std::chrono::milliseconds(1), [number = qp.qp_num] {
        if (QueuePair* const found = find_queue_pair(number)) world().kick(*found);
    });
}

}  // namespace

QueuePair* find_queue_pair(std::uint32_t number) {
    const auto found = world().queue_pairs.find(number);
    return found == world().queue_pairs.end() ? nullptr : found->second;
}

void step(QueuePair& qp) {
    if (qp.device->is_removed) return;
    if (is_over(qp)) {
        if (!qp.is_flushing) flush(qp);
        return;
    }
    if (qp.state != IBV_QPS_RTS || qp.sends.empty()) return;
    const Outcome outcome = execute(qp, qp.sends.front());
    if (outcome.kind == Outcome::Kind::waits) {
        wait_for_peer(qp);
        return;
    }
    qp.unanswered_since.reset();
    const Send send = std::move(qp.sends.front());
    qp.sends.pop_front();
    complete(qp, send, outcome.status);
    if (outcome.kind == Outcome::Kind::failed) {
        break_down(qp);
    } else if (!qp.sends.empty()) {
        world().kick(qp);
    }
}

void break_down(QueuePair& qp, ibv_qp_state end) {
    if (qp.state == IBV_QPS_ERR || qp.state == IBV_QPS_RESET) return;
    const bool was_over = is_over(qp);
    qp.state = end;
    if (was_over) return;
    if (qp.srq != nullptr) {
        report(context_of(qp.context), IBV_EVENT_QP_LAST_WQE_REACHED, &qp);
    }
    if (qp.profile().is_iwarp()) tell_connection(qp);
    qp.is_flushing = true;
    world().after(std::chrono::microseconds(qp.profile().flush_delay_us), [number = qp.qp_num] {
        if (QueuePair* const found = find_queue_pair(number)) flush(*found);
    });
}

// ---- completions ----------------------------------------------------------------------------

namespace {

void show(CompletionQueue& cq, const ibv_wc& wc, bool is_solicited) {
    if (cq.is_overrun) return;
    if (cq.ready.size() >= static_cast<std::size_t>(cq.cqe)) {
        cq.is_overrun = true;
        report(context_of(cq.context), IBV_EVENT_CQ_ERR, &cq);
        return;
    }
    cq.ready.push_back({wc, is_solicited});
    // Failures count as solicited (InfiniBand architecture, 11.4.2.2).
    const bool is_heard =
        cq.armed == CompletionQueue::Armed::any || (cq.armed == CompletionQueue::Armed::solicited &&
                                                    (is_solicited || wc.status != IBV_WC_SUCCESS));
    if (!is_heard || cq.channel == nullptr) return;
    cq.armed = CompletionQueue::Armed::no;
    static_cast<Channel&>(*cq.channel).events.push(&cq);
}

}  // namespace

void push(CompletionQueue& cq, const ibv_wc& wc, bool is_solicited, bool is_receive) {
    Device& device = *cq.device;
    const auto late = is_receive ? device.late_receive : device.late_initiator;
    // In order within the queue: what is held or late holds up what follows.
    if (!device.is_holding && late.count() == 0 && cq.held.empty()) {
        show(cq, wc, is_solicited);
        return;
    }
    cq.held.push_back({wc, is_solicited});
    if (device.is_holding) return;
    ++cq.timers;
    world().after(late, [&cq] {
        --cq.timers;
        if (cq.is_gone) {
            if (cq.timers == 0) delete &cq;
            return;
        }
        if (cq.held.empty() || cq.device->is_holding) return;
        const Completion first = cq.held.front();
        cq.held.pop_front();
        show(cq, first.wc, first.is_solicited);
    });
}

void let_go(CompletionQueue& cq) {
    while (!cq.held.empty()) {
        const Completion first = cq.held.front();
        cq.held.pop_front();
        show(cq, first.wc, first.is_solicited);
    }
}

void tell_connection(QueuePair& qp) {
    if (qp.cm_id != 0) end_connection(std::exchange(qp.cm_id, 0), false);
}

}  // namespace ndv::doubles

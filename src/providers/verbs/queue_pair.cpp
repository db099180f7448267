// SPDX-License-Identifier: Apache-2.0
// Making hardware queue pairs, posting to them, and taking their completions.
#include "providers/verbs/queue_pair.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "providers/verbs/async_events.hpp"
#include "providers/verbs/status.hpp"

namespace ndv::verbs {
namespace {

// Common devices take so much inline.
constexpr std::array<std::uint32_t, 4> kInlineSizes = {512, 220, 64, 0};

// What a hardware queue pair leaves to be destroyed, on the worker thread.
struct Remains {
    std::shared_ptr<OwnedDomain> domain;
    std::shared_ptr<HardwareQueue> receive_queue;
    std::shared_ptr<HardwareQueue> initiator_queue;
    ibv_qp* qp = nullptr;
    ibv_mr* region = nullptr;
    std::vector<std::byte> staging;
    std::vector<core::BufferHold*> kept;

    Remains() = default;
    Remains(const Remains&) = delete;
    Remains& operator=(const Remains&) = delete;
    ~Remains() {
        if (qp != nullptr) ibv_destroy_qp(qp);
        if (region != nullptr) ibv_dereg_mr(region);
        for (core::BufferHold* const hold : kept) hold->release();
    }
};

ibv_wr_opcode opcode_of(const core::WorkRequest& request) {
    if (request.type == core::OperationType::write) return IBV_WR_RDMA_WRITE;
    if (request.type == core::OperationType::read) return IBV_WR_RDMA_READ;
    return request.invalidates ? IBV_WR_SEND_WITH_INV : IBV_WR_SEND;
}

unsigned send_flags_of(std::uint32_t flags) {
    // Signalled always: a silent success that nobody sees end would keep its buffers.
    unsigned out = IBV_SEND_SIGNALED;
    if ((flags & core::flag::kReadFence) != 0) out |= IBV_SEND_FENCE;
    if ((flags & core::flag::kSendAndSolicitEvent) != 0) out |= IBV_SEND_SOLICITED;
    return out;
}

constexpr std::uint64_t kHasFailed = 1ULL << 63U;

}  // namespace

HardwareQueuePair::HardwareQueuePair(std::shared_ptr<AdapterParts> parts,
                                     std::shared_ptr<OwnedDomain> domain,
                                     std::shared_ptr<HardwareQueue> receive_queue,
                                     std::shared_ptr<HardwareQueue> initiator_queue)
    : parts_(std::move(parts)),
      domain_(std::move(domain)),
      receive_queue_(std::move(receive_queue)),
      initiator_queue_(std::move(initiator_queue)),
      serial_(parts_->next_serial.fetch_add(1, std::memory_order_relaxed)) {}

HardwareQueuePair::~HardwareQueuePair() {
    if (parts_->device->is_foreign()) return;
    parts_->async_events->forget(qp_);
    const auto remains = std::make_shared<Remains>();
    remains->domain = domain_;
    remains->receive_queue = receive_queue_;
    remains->initiator_queue = initiator_queue_;
    remains->qp = qp_;
    remains->region = region_;
    remains->staging = std::move(staging_);
    remains->kept = std::move(kept_);
    parts_->worker->run([remains] {});
}

Expected<void> HardwareQueuePair::create(const core::QueuePairLimits& limits) {
    ibv_qp_init_attr wanted{};
    wanted.send_cq = initiator_queue_->get();
    wanted.recv_cq = receive_queue_->get();
    wanted.qp_type = IBV_QPT_RC;
    // One more for the request that wakes a flushed queue.
    wanted.cap.max_send_wr = limits.initiator_queue_depth + 1;
    wanted.cap.max_recv_wr = std::max(1U, limits.receive_queue_depth);
    wanted.cap.max_send_sge = std::max(1U, limits.max_initiator_sge);
    wanted.cap.max_recv_sge = std::max(1U, limits.max_receive_sge);
    for (const std::uint32_t size : kInlineSizes) {
        if (size > limits.inline_size && size != 0) continue;
        ibv_qp_init_attr asked = wanted;
        asked.cap.max_inline_data = size;
        qp_ = ibv_create_qp(domain_->get(), &asked);
        // Some drivers say no to more than they can, others grant less.
        inline_size_ = std::min(size, asked.cap.max_inline_data);
        if (qp_ != nullptr) break;
    }
    if (qp_ == nullptr) return verb_failed("create_qp: ibv_create_qp", errno);
    stride_ = std::max(1U, limits.inline_size);
    staging_.resize(stride_ * std::bit_ceil(std::max(1U, limits.initiator_queue_depth)));
    // In parentheses: the function itself, not the header's macro.
    region_ =
        (ibv_reg_mr)(domain_->get(), staging_.data(), staging_.size(), IBV_ACCESS_LOCAL_WRITE);
    if (region_ == nullptr) return verb_failed("create_qp: registering inline memory", errno);
    // Receives can be posted from INIT on; rdma_cm brings the rest when there is a connection.
    ibv_qp_attr attributes{};
    attributes.qp_state = IBV_QPS_INIT;
    attributes.port_num = parts_->device->port();
    attributes.qp_access_flags = IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE;
    const int failed = ibv_modify_qp(
        qp_, &attributes, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
    if (failed != 0) return verb_failed("create_qp: ibv_modify_qp to INIT", std::abs(failed));
    return {};
}

Expected<std::shared_ptr<QueuePair>> QueuePair::create(
    std::shared_ptr<core::ProtectionDomain> pd, std::shared_ptr<OwnedDomain> domain,
    std::shared_ptr<CompletionQueue> receive_cq, std::shared_ptr<CompletionQueue> initiator_cq,
    const core::QueuePairLimits& limits, core::RequestContexts* contexts) {
    auto made = std::make_shared<QueuePair>(std::move(pd), std::move(domain), std::move(receive_cq),
                                            std::move(initiator_cq), limits, contexts);
    auto hardware = made->make_hardware();
    if (!hardware) return Unexpected{hardware.error()};
    made->hardware_ = std::move(*hardware);
    made->receive_queue_.add(made->hardware_->serial(), *made);
    made->initiator_queue_.add(made->hardware_->serial(), *made);
    made->parts_->async_events->watch(made->hardware_->get(), made);
    return made;
}

QueuePair::QueuePair(std::shared_ptr<core::ProtectionDomain> pd,
                     std::shared_ptr<OwnedDomain> domain,
                     std::shared_ptr<CompletionQueue> receive_cq,
                     std::shared_ptr<CompletionQueue> initiator_cq,
                     const core::QueuePairLimits& limits, core::RequestContexts* contexts)
    : core::QueuePair(std::move(pd), receive_cq, initiator_cq, limits, contexts),
      parts_(receive_cq->parts()),
      domain_(std::move(domain)),
      receive_queue_(*receive_cq),
      initiator_queue_(*initiator_cq),
      can_invalidate_(std::ranges::count(parts_->device->info().features,
                                         std::string("send_and_invalidate")) != 0),
      initiated_(limits.initiator_queue_depth, std::max(1U, limits.max_initiator_sge)),
      receives_(limits.receive_queue_depth, std::max(1U, limits.max_receive_sge)) {}

QueuePair::~QueuePair() {
    if (is_foreign() || !hardware_) return;
    receive_queue_.remove(hardware_->serial());
    initiator_queue_.remove(hardware_->serial());
    // What was posted still ends; its buffers stay until the device has let go of them.
    for (const bool is_receive : {false, true}) {
        ShadowQueue& posted = queue(is_receive);
        while (!posted.is_empty()) {
            const std::uint32_t position = posted.cursor.head_position();
            for (core::BufferHold* const hold : posted.holds(position)) hardware_->keep(hold);
            posted[position].segment_count = 0;
            end_head(is_receive, cancelled());
        }
    }
}

Expected<std::shared_ptr<HardwareQueuePair>> QueuePair::make_hardware() {
    auto made = std::make_shared<HardwareQueuePair>(parts_, domain_, receive_queue_.hardware(),
                                                    initiator_queue_.hardware());
    if (auto created = made->create(limits()); !created) return Unexpected{created.error()};
    return made;
}

std::shared_ptr<HardwareQueuePair> QueuePair::hardware() const {
    const base::Lock lock(receive_mutex_);
    return hardware_;
}

Status QueuePair::do_post(const core::WorkRequest& request,
                          std::span<const core::LocalBuffer> buffers, std::uint32_t length) {
    if (request.invalidates && !can_invalidate_) return Status::not_supported;
    if (request.type == core::OperationType::read &&
        outbound_read_limit_.load(std::memory_order_relaxed) == 0) {
        return Status::invalid_device_request;
    }
    // Requests that have ended may wait in the hardware queue for somebody to look. Silent ones end
    // here although nobody ever does.
    if (initiated_.cursor.is_full()) {
        static_cast<void>(initiator_queue_.harvest());
    } else if (silent_.load(std::memory_order_relaxed) > 0) {
        initiator_queue_.try_harvest();
    }
    if (initiated_.cursor.is_full() || !initiator_queue_.make_room()) {
        return Status::no_more_entries;
    }
    const base::Lock lock(initiator_mutex_);
    if (is_flushed_.load(std::memory_order_relaxed)) return Status::connection_invalid;
    const std::uint32_t position = initiated_.cursor.tail_position();
    Shadow& slot = initiated_.fill(request.segments.first(buffers.size()), buffers);
    slot.type = request.type;
    slot.context = request.context;
    slot.context_is_object = request.context_is_object;
    slot.is_silent = (request.flags & core::flag::kSilentSuccess) != 0;

    ibv_send_wr wr{};
    wr.wr_id = WorkId{hardware_->serial(), false, position}.pack();
    wr.opcode = opcode_of(request);
    wr.send_flags = send_flags_of(request.flags);
    wr.sg_list = initiated_.pieces(position).data();
    wr.num_sge = slot.piece_count;
    wr.wr.rdma.remote_addr = request.remote_address;
    wr.wr.rdma.rkey = request.remote_token;
    // Some drivers take the token from here, others from wr.rdma.
    if (request.invalidates) wr.invalidate_rkey = request.remote_token;
    // iWARP answers Reads in order, and its kernel devices break on one that is fenced.
    if (request.type == core::OperationType::read && parts_->device->is_iwarp()) {
        wr.send_flags &= ~static_cast<unsigned>(IBV_SEND_FENCE);
    }
    if ((request.flags & core::flag::kInline) != 0) stage_inline(request, position, length, wr);

    initiator_queue_.note_posted();
    if (slot.is_silent) silent_.fetch_add(1, std::memory_order_relaxed);
    initiated_.cursor.publish();
    ibv_send_wr* refused = nullptr;
    // Some drivers return errno, others its negative.
    const int os_error = std::abs(ibv_post_send(hardware_->get(), &wr, &refused));
    if (os_error == 0) {
        if (!is_supervised_.load(std::memory_order_relaxed)) begin_supervision();
        return Status::success;
    }
    if (slot.is_silent) silent_.fetch_sub(1, std::memory_order_relaxed);
    initiated_.cursor.retract();
    initiator_queue_.note_ended(1);
    if (os_error == ENOMEM) return Status::no_more_entries;
    // The connection ends, and nobody has told yet.
    return os_error == EINVAL ? Status::internal_error : Status::connection_invalid;
}

// INLINE: the addresses are the caller's own and need not be registered.
void QueuePair::stage_inline(const core::WorkRequest& request, std::uint32_t position,
                             std::uint32_t length, ibv_send_wr& wr) {
    const std::span<ibv_sge> pieces = initiated_.pieces(position);
    wr.num_sge = 0;
    if (length == 0) return;
    if (length <= hardware_->inline_size()) wr.send_flags |= IBV_SEND_INLINE;
    if (length <= hardware_->inline_size() && request.segments.size() <= pieces.size()) {
        for (const core::Segment& segment : request.segments) {
            if (segment.length == 0) continue;
            pieces[static_cast<std::size_t>(wr.num_sge++)] = {
                segment.address, static_cast<std::uint32_t>(segment.length), 0};
        }
        return;
    }
    std::byte* const to = hardware_->staging(position & initiated_.cursor.mask());
    std::size_t at = 0;
    for (const core::Segment& segment : request.segments) {
        std::memcpy(to + at, reinterpret_cast<const void*>(segment.address), segment.length);
        at += segment.length;
    }
    pieces[0] = {reinterpret_cast<std::uint64_t>(to), length, hardware_->staging_key()};
    wr.num_sge = 1;
}

Status QueuePair::do_post_receive(const core::ReceiveRequest& request,
                                  std::span<const core::LocalBuffer> buffers, std::uint32_t) {
    if (receives_.cursor.is_full()) static_cast<void>(receive_queue_.harvest());
    if (receives_.cursor.is_full() || !receive_queue_.make_room()) return Status::no_more_entries;
    bool ends_at_once = false;
    {
        const base::Lock lock(receive_mutex_);
        const std::uint32_t position = receives_.cursor.tail_position();
        Shadow& slot = receives_.fill(request.segments, buffers);
        slot.context = request.context;
        slot.context_is_object = request.context_is_object;
        receive_queue_.note_posted();
        receives_.cursor.publish();
        // NDK takes receives at any time; those of a flushed queue pair end CANCELLED.
        const bool is_flushed = is_flushed_.load(std::memory_order_relaxed);
        ends_at_once = is_flushed && is_over_.load(std::memory_order_relaxed);
        if (!is_flushed && post_receive_to_hardware(position) != 0) {
            receives_.cursor.retract();
            receive_queue_.note_ended(1);
            return Status::no_more_entries;
        }
    }
    if (ends_at_once) with_all_locked([this] { cancel_rest(); });
    return Status::success;
}

int QueuePair::post_receive_to_hardware(std::uint32_t position) {
    const std::span<ibv_sge> pieces = receives_.pieces(position);
    ibv_recv_wr wr{};
    wr.wr_id = WorkId{hardware_->serial(), true, position}.pack();
    wr.sg_list = pieces.data();
    wr.num_sge = receives_[position].piece_count;
    if (wr.num_sge == 0 && !parts_->device->quirks().takes_empty_receives) {
        pieces[0] = {reinterpret_cast<std::uint64_t>(hardware_->staging(0)), 0,
                     hardware_->staging_key()};
        wr.num_sge = 1;
    }
    ibv_recv_wr* refused = nullptr;
    return ibv_post_recv(hardware_->get(), &wr, &refused);
}

void QueuePair::handle_completion(const WorkId& id, const ibv_wc& done) {
    ShadowQueue& posted = queue(id.is_receive);
    const std::uint32_t ahead =
        (id.position - posted.cursor.head_position()) & WorkId::kPositionMask;
    if (ahead >= posted.cursor.size()) return;  // ended already, by a flush that did not wait
    const bool is_flushed = is_flushed_.load(std::memory_order_acquire);
    // Kernel siw has another word, too, for requests that a flush ends.
    const bool is_flush =
        done.status == IBV_WC_WR_FLUSH_ERR || (done.status == IBV_WC_LOC_QP_OP_ERR && is_flushed);
    if (is_flush && !is_flushed) {
        // An attempt to connect that fails takes iWARP's receives along. They are posted again,
        // unless the queue pair ends, and then they end with it.
        if (id.is_receive && state() == core::QueuePairState::idle) return;
        // Whoever polls it finds the queue pair in error.
        set_state(core::QueuePairState::error);
        request_tick(kEnd);
    }
    if (!is_flush && done.status != IBV_WC_SUCCESS) {
        std::uint64_t none = 0;
        failure_.compare_exchange_strong(none, kHasFailed | (std::uint64_t{done.vendor_err} << 8U) |
                                                   static_cast<std::uint8_t>(done.status));
        set_state(core::QueuePairState::error);
        request_tick(kBroken);
    }
    core::Completion out = is_flush ? cancelled() : core::Completion{};
    // The device works in order: what it left out before has ended like this one.
    core::Completion earlier = out;
    if (done.status != IBV_WC_SUCCESS) earlier.status = Status::cancelled;
    for (std::uint32_t i = 0; i < ahead; ++i) end_head(id.is_receive, earlier);

    out.status = is_flush ? Status::cancelled : status_of(done.status, id.is_receive);
    if (!is_flush && id.is_receive && done.status == IBV_WC_LOC_QP_OP_ERR &&
        !parts_->device->quirks().has_length_errors) {
        out.status = Status::buffer_overflow;
    }
    if (done.status != IBV_WC_SUCCESS && !is_flush) out.detail = detail_of(done);
    if (id.is_receive && done.status == IBV_WC_SUCCESS) {
        out.bytes_transferred = done.byte_len;
        constexpr unsigned kKernelWithInvalidate = 1U << 2U;
        const unsigned mark =
            IBV_WC_WITH_INV |
            (parts_->device->quirks().has_kernel_wc_flags ? kKernelWithInvalidate : 0U);
        if ((done.wc_flags & mark) != 0) {
            out.type = core::OperationType::receive_and_invalidate;
            out.invalidated_token = done.invalidated_rkey;
        }
    }
    end_head(id.is_receive, out);
}

void QueuePair::end_head(bool is_receive, core::Completion done) {
    ShadowQueue& posted = queue(is_receive);
    const std::uint32_t position = posted.cursor.head_position();
    const Shadow slot = posted[position];
    if (done.type != core::OperationType::receive_and_invalidate) done.type = slot.type;
    done.context = slot.context;
    done.context_is_object = slot.context_is_object;
    posted.release(position);
    if (slot.is_silent) silent_.fetch_sub(1, std::memory_order_relaxed);
    // The slot is free before the completion shows: whoever polls it may post at once.
    posted.cursor.retire();
    cq(is_receive).note_ended(1);
    ended_.fetch_add(1, std::memory_order_relaxed);
    if (slot.is_silent && done.status == Status::success) {
        if (slot.context_is_object) contexts()->retire(slot.context);
        return;
    }
    push(is_receive, done);
}

void QueuePair::push(bool is_receive, core::Completion& done) {
    done.contexts = contexts();
    if (done.contexts != nullptr) done.contexts->add_reference();
    if (cq(is_receive).push(done)) return;
    // Overrun: NDK declares the queue and its queue pairs dead.
    if (done.contexts != nullptr) {
        if (done.context_is_object) done.contexts->retire(done.context);
        done.contexts->release();
    }
    set_state(core::QueuePairState::error);
    request_tick(kBroken);
}

core::Completion QueuePair::cancelled() const {
    core::Completion out;
    out.status = Status::cancelled;
    const std::uint64_t failure = failure_.load(std::memory_order_acquire);
    if (failure != 0) {
        out.detail.source = core::Detail::Source::device;
        out.detail.code = static_cast<std::uint8_t>(failure);
        out.detail.vendor_error = static_cast<std::uint32_t>(failure >> 8U);
    }
    return out;
}

}  // namespace ndv::verbs

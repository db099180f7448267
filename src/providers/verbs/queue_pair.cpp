// SPDX-License-Identifier: Apache-2.0
// Making hardware queue pairs, and taking their completions.
#include "providers/verbs/queue_pair.hpp"

#include <endian.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <string>
#include <system_error>
#include <utility>

#include "base/log.hpp"
#include "providers/verbs/async_events.hpp"
#include "providers/verbs/status.hpp"

namespace ndv::verbs {
namespace {

// Common devices take so much inline.
constexpr std::array<std::uint32_t, 4> kInlineSizes = {512, 220, 64, 0};

}  // namespace

HardwareQueuePair::HardwareQueuePair(std::shared_ptr<AdapterParts> parts,
                                     std::shared_ptr<OwnedDomain> domain,
                                     std::shared_ptr<HardwareQueue> receive_queue,
                                     std::shared_ptr<HardwareQueue> initiator_queue,
                                     std::shared_ptr<HardwareSharedQueue> shared_queue)
    : parts_(std::move(parts)),
      receive_queue_(std::move(receive_queue)),
      initiator_queue_(std::move(initiator_queue)),
      shared_queue_(std::move(shared_queue)),
      serial_(parts_->take_serial()),
      staging_(std::move(domain)) {}

HardwareQueuePair::~HardwareQueuePair() {
    if (parts_->device->is_foreign()) return;
    if (qp_ != nullptr && !is_destroyed()) ibv_destroy_qp(qp_);
    for (core::BufferHold* const hold : kept_) hold->release();
}

void HardwareQueuePair::end(HardwareQueuePair* gone) {
    if (gone->parts_->device->is_foreign()) {
        delete gone;
        return;
    }
    if (!gone->is_destroyed()) gone->parts_->async_events->forget(gone->qp_);
    gone->parts_->worker->run([gone] { delete gone; });
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
    if (shared_queue_) wanted.srq = shared_queue_->get();
    for (const std::uint32_t size : kInlineSizes) {
        if (size > limits.inline_size && size != 0) continue;
        ibv_qp_init_attr asked = wanted;
        asked.cap.max_inline_data = size;
        qp_ = ibv_create_qp(staging_.domain().get(), &asked);
        // Some drivers say no to more than they can, others grant less.
        inline_size_ = std::min(size, asked.cap.max_inline_data);
        if (qp_ != nullptr) break;
    }
    // A shortage is none of the kind.
    if (qp_ == nullptr && (errno == EOPNOTSUPP || errno == EINVAL) &&
        !parts_->device->has_queue_pairs()) {
        return fail(Status::not_supported,
                    "create_qp: " + parts_->device->name() +
                        " has no queue pairs of the kind that connections need",
                    "use the soft adapter over its network interface", errno);
    }
    if (qp_ == nullptr) return verb_failed("create_qp: ibv_create_qp", errno);
    number_ = qp_->qp_num;
    stride_ = std::max(1U, limits.inline_size);
    if (!staging_.map(stride_ * std::bit_ceil(std::max(1U, limits.initiator_queue_depth)))) {
        return verb_failed("create_qp: memory for inline data", errno);
    }
    const bool is_used =
        inline_size_ < limits.inline_size || !parts_->device->quirks().takes_empty_receives;
    if (is_used && !staging_.register_all()) {
        return verb_failed("create_qp: registering inline memory", errno);
    }
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

void HardwareQueuePair::destroy(std::shared_ptr<HardwareQueuePair> self,
                                std::shared_ptr<core::Object> user) {
    parts_->async_events->forget(qp_);
    parts_->worker->run([self = std::move(self), user = std::move(user)] {
        const int failed = std::abs(ibv_destroy_qp(self->qp_));
        // The kernel has given the device up, or it would have waited. EIO: it was removed, and the
        // kernel has destroyed everything before.
        if (failed != 0 && failed != EIO) {
            base::log(base::LogLevel::warning, "verbs",
                      "a queue pair of " + self->parts_->device->name() +
                          " can be neither stopped nor destroyed: " +
                          std::generic_category().message(failed));
        }
        // release: pairs with the acquire in is_destroyed().
        self->is_destroyed_.store(true, std::memory_order_release);
    });
}

QueuePair::QueuePair(std::shared_ptr<core::ProtectionDomain> pd,
                     std::shared_ptr<LocalMemory> memory,
                     std::shared_ptr<CompletionQueue> receive_cq,
                     std::shared_ptr<CompletionQueue> initiator_cq,
                     std::shared_ptr<SharedReceiveQueue> srq, const core::QueuePairLimits& limits,
                     core::RequestContexts* contexts)
    : core::QueuePair(std::move(pd), receive_cq, initiator_cq, limits, contexts),
      parts_(receive_cq->parts()),
      memory_(std::move(memory)),
      receive_queue_(*receive_cq),
      initiator_queue_(*initiator_cq),
      shared_(std::move(srq)),
      can_invalidate_(std::ranges::count(parts_->device->info().features,
                                         std::string("send_and_invalidate")) != 0),
      can_read_and_invalidate_((parts_->device->info().adapter_flags &
                                core::adapter_flag::kRdmaReadLocalInvalidate) != 0),
      initiated_(limits.initiator_queue_depth, std::max(1U, limits.max_initiator_sge)),
      receives_(limits.receive_queue_depth, std::max(1U, limits.max_receive_sge)) {
    if (!shared_) return;
    shared_->attach(receive_cq);
    set_srq(shared_);
}

QueuePair::~QueuePair() {
    if (is_foreign() || !hardware_) return;
    note_cause(core::Detail::of(core::End::closed));
    receive_queue_.remove(*hardware_);
    initiator_queue_.remove(*hardware_);
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
    // The kernel waits for windows when it destroys what they are bound to.
    for (const auto& [key, weak] : bound_) {
        if (const auto about = weak.lock()) about->leave(hardware_->serial());
    }
    initiator_queue_.tell_owed();
    receive_queue_.tell_owed();
}

Expected<void> QueuePair::take_hardware() {
    const std::shared_ptr<HardwareQueuePair> fresh(
        new HardwareQueuePair(parts_, memory_->domain(), receive_queue_.hardware(),
                              initiator_queue_.hardware(), shared_ ? shared_->hardware() : nullptr),
        &HardwareQueuePair::end);
    if (auto created = fresh->create(limits()); !created) return created;
    const std::shared_ptr<HardwareQueuePair> old = hardware();
    for (CompletionQueue* const queue : {&receive_queue_, &initiator_queue_}) {
        if (old) queue->remove(*old);
        queue->add(*fresh, *this, shared_);
    }
    const auto self = std::static_pointer_cast<QueuePair>(shared_from_this());
    if (self_.expired()) self_ = self;
    Expected<void> taken;
    with_all_locked([&]() NDV_REQUIRES(initiator_mutex_, receive_mutex_) {
        hardware_ = fresh;
        for (std::uint32_t position = receives_.cursor.head_position();
             position != receives_.cursor.published(); ++position) {
            if (taken && post_receive_to_hardware(position) != 0) {
                taken = fail(Status::no_more_entries, "the device did not take a receive again");
            }
        }
    });
    parts_->async_events->watch(fresh->get(), self);
    return taken;
}

std::shared_ptr<HardwareQueuePair> QueuePair::hardware() const {
    const base::Lock lock(receive_mutex_);
    return hardware_;
}

void QueuePair::handle_completion(const WorkId& id, const ibv_wc& done) {
    ShadowQueue& posted = queue(id.is_receive);
    const std::uint32_t ahead =
        (id.position - posted.cursor.head_position()) & WorkId::kPositionMask;
    if (ahead >= posted.cursor.size()) return;  // ended already, by a flush that did not wait
    const bool is_flush = this->is_flush(done);
    // An attempt to connect that fails takes iWARP's receives along. They are posted again, unless
    // the queue pair ends, and then they end with it.
    if (is_flush && id.is_receive && state() == core::QueuePairState::idle && !is_flushed()) return;
    note_end(done, is_flush);
    if (!id.is_receive && ahead > 0 && done.status == IBV_WC_SUCCESS &&
        !parts_->device->quirks().completes_in_order) {
        posted[id.position].is_done = true;
        return;
    }
    // The device works in order: what it left out before has ended like this one.
    core::Completion earlier = is_flush ? cancelled() : core::Completion{};
    if (done.status != IBV_WC_SUCCESS) earlier.status = Status::cancelled;
    for (std::uint32_t i = 0; i < ahead; ++i) end_head(id.is_receive, earlier);
    end_head(id.is_receive, judge(id.is_receive, done, is_flush));
    while (!posted.is_empty() && posted[posted.cursor.head_position()].is_done) {
        end_head(id.is_receive, core::Completion{});
    }
}

void QueuePair::handle_shared_receive(const WorkId& id, const ibv_wc& done) {
    const bool is_flush = this->is_flush(done);
    note_end(done, is_flush);
    const auto receive = shared_->take(id.position);
    if (!receive) return;
    core::Completion out = judge(true, done, is_flush);
    if (out.type != core::OperationType::receive_and_invalidate) {
        out.type = core::OperationType::receive;
    }
    out.context = receive->context;
    out.context_is_object = receive->context_is_object;
    push(true, out);
}

bool QueuePair::is_flush(const ibv_wc& done) const {
    if (done.status == IBV_WC_WR_FLUSH_ERR) return true;
    // Kernel siw has another word, too, for requests that a flush ends.
    return done.status == IBV_WC_LOC_QP_OP_ERR && is_flushed();
}

// A thread that polls the completion finds the queue pair in error.
void QueuePair::note_end(const ibv_wc& done, bool is_flush) {
    if (done.status == IBV_WC_SUCCESS) return;
    if (is_flush) {
        if (is_flushed()) return;
        note_cause(core::Detail::of(core::End::lost));
        set_state(core::QueuePairState::error);
        request_tick(kEnd);
        return;
    }
    note_cause(detail_of(done));
    set_state(core::QueuePairState::error);
    request_tick(kBroken);
}

core::Completion QueuePair::judge(bool is_receive, const ibv_wc& done, bool is_flush) {
    if (is_flush) return cancelled();
    core::Completion out;
    out.status = status_of(done.status, is_receive);
    const Quirks& quirks = parts_->device->quirks();
    if (is_receive && done.status == IBV_WC_LOC_QP_OP_ERR && !quirks.has_length_errors) {
        out.status = Status::buffer_overflow;
    }
    if (done.status != IBV_WC_SUCCESS) {
        out.detail = detail_of(done);
        return out;
    }
    if (!is_receive) return out;
    out.bytes_transferred = done.byte_len;
    if ((done.wc_flags & IBV_WC_WITH_IMM) != 0) {
        out.has_immediate = true;
        out.immediate = be32toh(done.imm_data);
    }
    constexpr unsigned kKernelWithInvalidate = 1U << 2U;
    const unsigned mark =
        IBV_WC_WITH_INV | (quirks.has_kernel_wc_flags ? kKernelWithInvalidate : 0U);
    if ((done.wc_flags & mark) != 0) {
        out.type = core::OperationType::receive_and_invalidate;
        out.invalidated_token = done.invalidated_rkey;
        memory_->invalidated_by_peer(done.invalidated_rkey);
    }
    return out;
}

void QueuePair::end_head(bool is_receive, core::Completion done) {
    ShadowQueue& posted = queue(is_receive);
    const std::uint32_t position = posted.cursor.head_position();
    const Shadow slot = posted[position];
    // Nothing behind a failure counts as a success; devices that complete out of order say so.
    if (!is_receive && has_failed_request_ && done.status == Status::success) done = cancelled();
    if (done.type != core::OperationType::receive_and_invalidate) done.type = slot.type;
    const bool is_success = done.status == Status::success;
    if (!is_receive && !is_success) has_failed_request_ = true;
    // Devices have many words for a mapping that was in the wrong state.
    if (slot.is_local && !is_success && done.status != Status::cancelled) {
        done.status = Status::invalid_device_request;
    }
    done.context = slot.context;
    done.context_is_object = slot.context_is_object;
    posted.release(position);
    if (slot.mapping != nullptr) {
        slot.mapping->owner().finish(*slot.mapping, slot.effect, is_success);
        slot.mapping->release();
    }
    // relaxed: see its declaration.
    if (slot.is_silent) silent_.fetch_sub(1, std::memory_order_relaxed);
    // The slot is free before the completion shows. The request stays outstanding until it is
    // polled, and the thread that polls it may post at once.
    posted.cursor.retire();
    cq(is_receive).note_ended(1);
    ended_.fetch_add(1, std::memory_order_relaxed);  // see its declaration
    if (slot.has_second) {
        posted[position + 1].is_told = !is_success;
        if (is_success) return;  // the second part reports
    } else if (slot.is_told) {
        return;
    }
    if (slot.is_silent && is_success) {
        end_silently(done.context, done.context_is_object);
        return;
    }
    push(is_receive, done);
}

void QueuePair::push(bool is_receive, core::Completion& done) {
    if (!deliver(is_receive, done)) request_tick(kBroken);
}

core::Completion QueuePair::cancelled() const {
    core::Completion out;
    out.status = Status::cancelled;
    out.detail = cause();
    return out;
}

}  // namespace ndv::verbs

// SPDX-License-Identifier: Apache-2.0
// Posting to the hardware queue pair.
#include <endian.h>

#include <cerrno>
#include <cstdlib>

#include "providers/verbs/queue_pair.hpp"

namespace ndv::verbs {
namespace {

struct OpcodeOf {
    core::OperationType type;
    bool is_variant;
    ibv_wr_opcode opcode;
};
constexpr OpcodeOf kOpcodes[] = {
    {core::OperationType::send, false, IBV_WR_SEND},
    {core::OperationType::send, true, IBV_WR_SEND_WITH_INV},
    {core::OperationType::write, false, IBV_WR_RDMA_WRITE},
    {core::OperationType::write, true, IBV_WR_RDMA_WRITE_WITH_IMM},
    {core::OperationType::read, false, IBV_WR_RDMA_READ},
    {core::OperationType::fetch_add, false, IBV_WR_ATOMIC_FETCH_AND_ADD},
    {core::OperationType::compare_swap, false, IBV_WR_ATOMIC_CMP_AND_SWP},
};

ibv_wr_opcode opcode_of(const core::WorkRequest& request) {
    for (const OpcodeOf& one : kOpcodes) {
        if (one.type == request.type && one.is_variant == request.is_variant()) return one.opcode;
    }
    return IBV_WR_SEND;  // core posts no other
}

unsigned send_flags_of(std::uint32_t flags) {
    // Signalled always: a silent success without a completion would keep its buffers.
    unsigned out = IBV_SEND_SIGNALED;
    if ((flags & core::flag::kReadFence) != 0) out |= IBV_SEND_FENCE;
    if ((flags & core::flag::kSendAndSolicitEvent) != 0) out |= IBV_SEND_SOLICITED;
    return out;
}

// XORed with a key of the device: names nothing, and invalidating it fails.
constexpr std::uint32_t kNoKey = 0xFF;

}  // namespace

Status QueuePair::do_post(const core::WorkRequest& request,
                          std::span<const core::LocalBuffer> buffers, std::uint32_t length) {
    if (request.invalidates && !can_invalidate_) return Status::not_supported;
    // relaxed: see its declaration.
    if (core::is_answered(request.type) &&
        outbound_read_limit_.load(std::memory_order_relaxed) == 0) {
        return Status::invalid_device_request;
    }
    if ((request.flags & core::flag::kRdmaReadLocalInvalidate) != 0 && can_read_and_invalidate_) {
        return post_reading_invalidate(request, buffers);
    }
    if (!has_places(1)) return Status::no_more_entries;
    const base::Lock lock(initiator_mutex_);
    if (is_flushed()) return Status::connection_invalid;
    ibv_send_wr wr{};
    const std::uint32_t position = initiated_.cursor.tail_position();
    const bool is_inline = (request.flags & core::flag::kInline) != 0;
    fill_slot(request, request.type, is_inline ? std::span<const core::LocalBuffer>() : buffers,
              wr);
    describe(request, wr);
    if (is_inline) stage_inline(buffers, position, length, wr);
    return submit(wr, 1);
}

// Requests that have ended may wait in the hardware queue for a thread to look. Silent ones end
// here although no program polls.
bool QueuePair::has_places(std::uint32_t count) {
    const auto has_room = [&] {
        return initiated_.cursor.size() + count <= initiated_.cursor.depth();
    };
    if (!has_room()) {
        static_cast<void>(initiator_queue_.harvest());
    } else if (silent_.load(std::memory_order_relaxed) > 0) {  // see its declaration
        initiator_queue_.try_harvest();
    }
    return has_room() && initiator_queue_.make_room(count);
}

template <typename Request>
Shadow& QueuePair::fill_slot(const Request& request, core::OperationType type,
                             std::span<const core::LocalBuffer> buffers, ibv_send_wr& wr) {
    const std::uint32_t position = initiated_.cursor.tail_position();
    Shadow& slot = initiated_.fill(buffers);
    slot.type = type;
    slot.context = request.context;
    slot.context_is_object = request.context_is_object;
    slot.is_silent = (request.flags & core::flag::kSilentSuccess) != 0;
    wr.wr_id = WorkId{initiator_hardware().serial(), false, position}.pack();
    wr.send_flags = send_flags_of(request.flags);
    wr.sg_list = initiated_.pieces(position).data();
    wr.num_sge = slot.piece_count;
    initiator_queue_.note_posted();
    // relaxed: see its declaration.
    if (slot.is_silent) silent_.fetch_add(1, std::memory_order_relaxed);
    initiated_.cursor.publish();
    return slot;
}

void QueuePair::describe(const core::WorkRequest& request, ibv_send_wr& wr) const {
    wr.opcode = opcode_of(request);
    if (core::is_atomic(request.type)) {
        const bool adds = request.type == core::OperationType::fetch_add;
        wr.wr.atomic.remote_addr = request.remote_address;
        wr.wr.atomic.rkey = request.remote_token;
        wr.wr.atomic.compare_add = adds ? request.operand : request.compare;
        wr.wr.atomic.swap = request.operand;
        return;
    }
    wr.wr.rdma.remote_addr = request.remote_address;
    wr.wr.rdma.rkey = request.remote_token;
    if (request.has_immediate) wr.imm_data = htobe32(static_cast<std::uint32_t>(request.operand));
    // Some drivers take the token from here, others from wr.rdma.
    if (request.invalidates) wr.invalidate_rkey = request.remote_token;
    // iWARP answers Reads in order, and its kernel devices break on one that is fenced.
    if (request.type == core::OperationType::read && parts_->device->is_iwarp()) {
        wr.send_flags &= ~static_cast<unsigned>(IBV_SEND_FENCE);
    }
}

Status QueuePair::submit(ibv_send_wr& wr, std::uint32_t count) {
    ibv_send_wr* refused = nullptr;
    // Some drivers return errno, others its negative.
    const int os_error = std::abs(ibv_post_send(initiator_hardware().get(), &wr, &refused));
    if (os_error == 0) {
        // relaxed: a supervision that is about to end looks once more, see supervise().
        if (!is_supervised_.load(std::memory_order_relaxed)) begin_supervision();
        return Status::success;
    }
    if (count > 1 && refused != &wr) {
        // The device has the first part: it ends by itself, and the connection with it.
        request_tick(kBroken);
        return Status::success;
    }
    const bool is_local = initiated_[initiated_.cursor.tail_position() - 1].is_local;
    for (; count > 0; --count) {
        initiated_.cursor.retract();
        if (initiated_[initiated_.cursor.tail_position()].is_silent) {
            silent_.fetch_sub(1, std::memory_order_relaxed);  // see its declaration
        }
        initiator_queue_.note_ended(1);
    }
    if (os_error == ENOMEM) return Status::no_more_entries;
    if (os_error == EINVAL) return Status::internal_error;
    // A bind or an invalidation is refused by the driver itself; others fail because the connection
    // ends, which no event has reported yet.
    if (is_local && (os_error == ENOSYS || os_error == EOPNOTSUPP)) return Status::not_supported;
    return is_local && os_error == EPERM ? Status::invalid_device_request
                                         : Status::connection_invalid;
}

// ---- requests about mappings ----------------------------------------------------------------

template <typename Request>
Status QueuePair::post_mapping(const Request& request, core::OperationType type,
                               const std::shared_ptr<Mappable>& about) {
    if (!has_places(1)) return Status::no_more_entries;
    // A token that the peer has invalidated shows in the receive that reports it.
    receive_queue_.try_harvest();
    const base::Lock lock(initiator_mutex_);
    if (is_flushed()) return Status::connection_invalid;
    if (type != core::OperationType::invalidate) {
        pruning_.prune(bound_, [](const auto& one) { return one.second.expired(); });
        bound_[about.get()] = about;
    }
    const auto post = [&](ibv_send_wr& wr, Mapping* mapping, Effect effect)
                          NDV_REQUIRES(initiator_mutex_) {
                              Shadow& slot = fill_slot(request, type, {}, wr);
                              slot.is_local = true;
                              slot.mapping = mapping;
                              slot.effect = effect;
                              if (effect == Effect::fill)
                                  mapping->bind_to(initiator_hardware().serial());
                              return submit(wr, 1);
                          };
    return about->post(request, post);
}

Status QueuePair::do_fast_register(const core::FastRegisterRequest& request) {
    return post_mapping(request, core::OperationType::fast_register,
                        static_cast<FastRegisterMemoryRegion&>(*request.region).mappable());
}

Status QueuePair::do_bind(const core::BindRequest& request) {
    return post_mapping(request, core::OperationType::bind,
                        static_cast<MemoryWindow&>(*request.window).mappable());
}

Status QueuePair::do_invalidate(const core::InvalidateRequest& request) {
    return post_mapping(request, core::OperationType::invalidate,
                        request.region != nullptr
                            ? static_cast<FastRegisterMemoryRegion&>(*request.region).mappable()
                            : static_cast<MemoryWindow&>(*request.window).mappable());
}

// Devices have no such Read for programs: so it is a Read and an invalidation that waits for it,
// with one completion. It takes two places of the queue.
Status QueuePair::post_reading_invalidate(const core::WorkRequest& request,
                                          std::span<const core::LocalBuffer> buffers) {
    if (!has_places(2)) return Status::no_more_entries;
    auto* const sink = dynamic_cast<Mapping*>(buffers.front().hold);
    const base::Lock lock(initiator_mutex_);
    if (is_flushed()) return Status::connection_invalid;
    const auto post = [&](ibv_send_wr& invalidation, Mapping* mapping,
                          Effect effect) NDV_REQUIRES(initiator_mutex_) {
        ibv_send_wr read{};
        if (mapping != nullptr) {
            Shadow& first = fill_slot(request, request.type, buffers, read);
            first.has_second = true;
            describe(request, read);
            read.next = &invalidation;
        }
        // Of the wrong memory: the request fails at its turn, without reading anything.
        Shadow& second = fill_slot(
            request, request.type,
            mapping == nullptr ? buffers : std::span<const core::LocalBuffer>(), invalidation);
        invalidation.sg_list = nullptr;
        invalidation.num_sge = 0;
        invalidation.send_flags |= IBV_SEND_FENCE;
        second.is_local = true;
        second.mapping = mapping;
        second.effect = effect;
        return mapping == nullptr ? submit(invalidation, 1) : submit(read, 2);
    };
    if (sink != nullptr) return sink->owner().post_invalidate(post, sink);
    ibv_send_wr wr{};
    wr.opcode = IBV_WR_LOCAL_INV;
    wr.invalidate_rkey = buffers.front().key ^ kNoKey;
    return post(wr, nullptr, Effect::none);
}

// INLINE: what has no token is the caller's own, and not registered.
void QueuePair::stage_inline(std::span<const core::LocalBuffer> buffers, std::uint32_t position,
                             std::uint32_t length, ibv_send_wr& wr) {
    const std::span<ibv_sge> pieces = initiated_.pieces(position);
    wr.num_sge = 0;
    if (length == 0) return;
    HardwareQueuePair& hardware = initiator_hardware();
    const bool is_taken = length <= hardware.inline_size();
    if (is_taken) wr.send_flags |= IBV_SEND_INLINE;
    if (is_taken && buffers.size() <= pieces.size()) {
        for (const core::LocalBuffer& buffer : buffers) {
            if (buffer.length == 0) continue;
            pieces[static_cast<std::size_t>(wr.num_sge++)] = {
                reinterpret_cast<std::uint64_t>(buffer.begin()), buffer.length, 0};
        }
        return;
    }
    std::byte* const to = hardware.staging(position & initiated_.cursor.mask());
    core::copy(buffers, to);
    pieces[0] = {reinterpret_cast<std::uint64_t>(to), length, hardware.staging_key()};
    wr.num_sge = 1;
}

Status QueuePair::do_post_receive(const core::ReceiveRequest& request,
                                  std::span<const core::LocalBuffer> buffers, std::uint32_t) {
    if (receives_.cursor.is_full()) static_cast<void>(receive_queue_.harvest());
    if (receives_.cursor.is_full() || !receive_queue_.make_room(1)) return Status::no_more_entries;
    bool ends_at_once = false;
    {
        const base::Lock lock(receive_mutex_);
        const std::uint32_t position = receives_.cursor.tail_position();
        Shadow& slot = receives_.fill(buffers);
        slot.context = request.context;
        slot.context_is_object = request.context_is_object;
        receive_queue_.note_posted();
        receives_.cursor.publish();
        // NDK takes receives at any time; those of a flushed queue pair end CANCELLED.
        ends_at_once = is_over_;
        if (!is_flushed() && post_receive_to_hardware(position) != 0) {
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

}  // namespace ndv::verbs

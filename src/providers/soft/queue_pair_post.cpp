// SPDX-License-Identifier: Apache-2.0
// Posting to a soft queue pair: a slot of a queue is filled and published. No lock, no allocation.
// There is a slot: core lets no more requests be outstanding than there are.

#include "providers/soft/mapping.hpp"
#include "providers/soft/queue_pair.hpp"

namespace ndv::soft {

iwarp::RequestKind kind_of(const core::WorkRequest& request) {
#define NDV_X(name, build, answer, operation, is_with_immediate) \
    if (request.type == core::OperationType::operation &&        \
        request.has_immediate == (is_with_immediate)) {          \
        return iwarp::RequestKind::name;                         \
    }
    NDV_REQUEST_LIST(NDV_X)
#undef NDV_X
    return iwarp::RequestKind::send;  // core posts no other
}

iwarp::SendRequest& QueuePair::fill_slot(const core::WorkRequest& request, iwarp::RequestKind kind,
                                         std::uint32_t length) {
    iwarp::SendRequest& slot = send_queue_[send_queue_.cursor.tail_position()];
    slot = iwarp::SendRequest{};
    slot.context = request.context;
    slot.context_is_object = request.context_is_object;
    slot.remote_address = request.remote_address;
    slot.remote_token = request.remote_token;
    slot.length = length;
    slot.kind = kind;
    slot.operand = request.operand;
    if (kind == iwarp::RequestKind::compare_swap) slot.compare = request.compare;
    slot.invalidates = request.invalidates;
    slot.solicits = (request.flags & core::flag::kSendAndSolicitEvent) != 0;
    slot.is_fenced = (request.flags & core::flag::kReadFence) != 0;
    slot.is_silent = (request.flags & core::flag::kSilentSuccess) != 0;
    return slot;
}

Status QueuePair::do_post(const core::WorkRequest& request,
                          std::span<const core::LocalBuffer> buffers, std::uint32_t length) {
    const iwarp::RequestKind kind = kind_of(request);
    // relaxed: see its declaration.
    if (iwarp::is_answered(kind) && outbound_read_limit_.load(std::memory_order_relaxed) == 0) {
        return Status::invalid_device_request;
    }
    close_lane();
    const std::uint32_t position = send_queue_.cursor.tail_position();
    iwarp::SendRequest& slot = fill_slot(request, kind, length);
    if ((request.flags & core::flag::kRdmaReadLocalInvalidate) != 0) {
        slot.invalidates = true;
        slot.local_token = request.segments.front().token;
    }
    if ((request.flags & core::flag::kInline) != 0) {
        std::byte* const to = send_queue_.inline_storage(position).data();
        core::copy(buffers, to);
        slot.segment_count = length > 0 ? 1 : 0;
        send_queue_.segment_storage(position)[0] = {to, length, nullptr, nullptr, 0};
    } else {
        slot.segment_count = static_cast<std::uint16_t>(buffers.size());
        store_segments(send_queue_.segment_storage(position).data(), buffers);
    }
    send_queue_.cursor.publish();
    return Status::success;
}

Status QueuePair::do_post_receive(const core::ReceiveRequest& request,
                                  std::span<const core::LocalBuffer> buffers,
                                  std::uint32_t length) {
    const std::uint32_t position = receive_queue_.cursor.tail_position();
    store_receive(receive_queue_[position], receive_queue_.segment_storage(position).data(),
                  request, buffers, length);
    receive_queue_.cursor.publish();
    // A Send may be waiting for it, or the queue pair is flushed and it ends at once.
    // acq_rel, pairs with the stepper's exchange, and modifies the word so that one of the two
    // comes later: either this thread sees the wish for a step, or the stepper sees the receive.
    // A step shows the peer of a direct connection a receive that is worth placing into; a poll
    // that finds nothing takes none.
    const bool is_shown = is_direct() && length > direct::kSmallMessage;
    if (receives_need_step_.fetch_add(0, std::memory_order_acq_rel) != 0 || is_shown) {
        step_for_receive();
    }
    return Status::success;
}

// ---- requests about memory of this side -----------------------------------------------------

void QueuePair::publish(iwarp::RequestKind kind, const core::MappingRequest& request,
                        std::uint32_t token, Mapping* mapping) {
    close_lane();
    iwarp::SendRequest& slot = send_queue_[send_queue_.cursor.tail_position()];
    slot = iwarp::SendRequest{};
    slot.kind = kind;
    slot.context = request.context;
    slot.context_is_object = request.context_is_object;
    slot.is_fenced = (request.flags & core::flag::kReadFence) != 0;
    slot.is_silent = (request.flags & core::flag::kSilentSuccess) != 0;
    slot.local_token = token;
    slot.operation = mapping;
    send_queue_.cursor.publish();
}

Status QueuePair::do_fast_register(const core::FastRegisterRequest& request) {
    const auto& about = static_cast<FastRegisterMemoryRegion&>(*request.region).mappable();
    Mapping* mapping = nullptr;
    const Status status = about->prepare(request, mapping);
    if (status != Status::success) return status;
    publish(iwarp::RequestKind::fast_register, request, mapping->token(), mapping);
    return Status::success;
}

Status QueuePair::do_bind(const core::BindRequest& request) {
    const auto& about = static_cast<MemoryWindow&>(*request.window).mappable();
    Mapping* mapping = nullptr;
    const Status status = about->prepare(request, mapping);
    if (status != Status::success) return status;
    publish(iwarp::RequestKind::bind, request, mapping->token(), mapping);
    return Status::success;
}

Status QueuePair::do_invalidate(const core::InvalidateRequest& request) {
    const core::Mapped mapped =
        request.region != nullptr ? request.region->mapped() : request.window->mapped();
    const core::Tokens& tokens = mapped.tokens;
    publish(iwarp::RequestKind::invalidate, request,
            tokens.local != 0 ? tokens.local : tokens.remote, nullptr);
    return Status::success;
}

}  // namespace ndv::soft

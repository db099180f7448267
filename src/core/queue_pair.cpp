// SPDX-License-Identifier: Apache-2.0
// Checks that every request passes before it is posted, and the sentences for those that fail.
#include "core/queue_pair.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "core/buffers.hpp"

namespace ndv::core {
namespace {

std::uint32_t legal_flags(const OperationRow& row, const WorkRequest& request) {
    return row.flags | (request.is_variant() ? row.variant_flags : 0);
}

const char* operation_name(const WorkRequest& request) {
    const OperationRow row = row_of(request.type);
    return request.is_variant() && row.variant != nullptr ? row.variant : row.name;
}

// Of the member of Access that has the right.
const char* right_name(std::uint32_t right) {
#define NDV_X(constant, name, value) \
    if ((access::constant & right) == right) return #name;
    NDV_ACCESS_LIST(NDV_X)
#undef NDV_X
    return "the right";
}

std::string segment_text(const Segment& segment) {
    return "address " + std::to_string(segment.address) + ", length " +
           std::to_string(segment.length);
}

}  // namespace

QueuePair::QueuePair(std::shared_ptr<ProtectionDomain> pd,
                     std::shared_ptr<CompletionQueue> receive_cq,
                     std::shared_ptr<CompletionQueue> initiator_cq, const QueuePairLimits& limits,
                     RequestContexts* contexts)
    : pd_(std::move(pd)),
      info_(pd_->info()),
      receive_cq_(std::move(receive_cq)),
      initiator_cq_(std::move(initiator_cq)),
      limits_(limits),
      initiated_(Outstanding::make(contexts)),
      receives_(Outstanding::make(contexts)) {
    receive_cq_->promise(limits_.receive_queue_depth);
    initiator_cq_->promise(limits_.initiator_queue_depth);
}

QueuePair::~QueuePair() {
    if (is_foreign()) {
        static_cast<void>(initiated_.release());
        static_cast<void>(receives_.release());
        return;
    }
    withdraw();
}

void QueuePair::set_srq(std::shared_ptr<SharedReceiveQueue> srq) {
    srq_ = std::move(srq);
    if (srq_ == nullptr) return;
    receives_->share(srq_->receives());
    srq_->feed(*receive_cq_);
}

void QueuePair::withdraw() {
    if (is_withdrawn_.exchange(true, std::memory_order_relaxed)) return;
    receive_cq_->withdraw(limits_.receive_queue_depth);
    initiator_cq_->withdraw(limits_.initiator_queue_depth);
    if (srq_ != nullptr) srq_->leave(*receive_cq_);
}

bool QueuePair::deliver(bool is_receive, Completion& completion) {
    completion.requests = (is_receive ? receives_ : initiated_).get();
    // So far it counts as the shared queue's only.
    if (is_receive && srq_ != nullptr) receives_->begin();
    if ((is_receive ? receive_cq_ : initiator_cq_)->push(completion)) return true;
    discard(completion);
    // Overrun: NDK declares the queue and its queue pairs dead.
    note_cause(Detail::of(End::overrun));
    set_state(QueuePairState::error);
    return false;
}

bool QueuePair::deliver(std::span<Completion> run) {
    if (run.empty()) return true;
    for (Completion& completion : run) completion.requests = initiated_.get();
    const std::size_t count = initiator_cq_->push(run);
    if (count == run.size()) return true;
    for (const Completion& completion : run.subspan(count)) discard(completion);
    note_cause(Detail::of(End::overrun));
    set_state(QueuePairState::error);
    return false;
}

void QueuePair::end_silently(std::uint64_t context, bool is_object) {
    if (is_object) initiated_->contexts()->retire(context);
    initiated_->end_silently();
}

Status QueuePair::check(const WorkRequest& request, std::uint64_t& length) const {
    if (is_closed()) return Status::file_forced_closed;
    length = total_length(request.segments);
    const OperationRow row = row_of(request.type);
    if (length > request.remote_size) return Status::invalid_parameter;
    if ((row.remote_right & ~request.remote_rights) != 0) return Status::access_denied;
    if ((request.flags & ~legal_flags(row, request)) != 0) return Status::invalid_parameter;
    // Nothing is the first segment's token that such a read ends.
    if ((request.flags & flag::kRdmaReadLocalInvalidate) != 0 && request.segments.empty()) {
        return Status::invalid_parameter;
    }
    if (request.has_immediate || is_atomic(request.type)) [[unlikely]] {
        const Status status = check_extension(request, length);
        if (status != Status::success) return status;
    }
    if ((request.flags & flag::kInline) != 0) {
        // NDK: the number of segments is not limited, the sum of bytes is.
        if (length > limits_.inline_size) return Status::buffer_overflow;
    } else {
        const std::uint32_t most =
            request.type == OperationType::read
                ? std::min(info_.max_read_request_sge, limits_.max_initiator_sge)
                : limits_.max_initiator_sge;
        if (request.segments.size() > most) return Status::data_overrun;
        if (length > info_.max_transfer_length) return Status::buffer_overflow;
    }
    if (state() != QueuePairState::connected) return Status::connection_invalid;
    return Status::success;
}

Status QueuePair::check_extension(const WorkRequest& request, std::uint64_t length) const {
    const std::uint32_t needed =
        request.has_immediate ? extension::kImmediate : extension::kAtomics;
    if ((info_.extensions & needed) == 0) return Status::not_supported;
    const bool is_sound = request.has_immediate ||
                          (length == kAtomicSize && request.remote_address % kAtomicSize == 0);
    return is_sound ? Status::success : Status::invalid_parameter;
}

std::uint32_t QueuePair::sink_rights() const {
    const bool is_free = (info_.adapter_flags & adapter_flag::kRdmaReadSinkNotRequired) != 0;
    return is_free ? access::kLocalWrite : access::kLocalWrite | access::kRdmaReadSink;
}

std::uint32_t QueuePair::local_rights(OperationType type) const {
    if (!is_answered(type)) return access::kLocalRead;
    return is_atomic(type) ? access::kLocalWrite : sink_rights();
}

bool QueuePair::takes_express(const WorkRequest& request, std::uint64_t length,
                              std::uint32_t rights) {
    if (initiated_->count() >= limits_.initiator_queue_depth) return false;
    // Before its completion can be polled.
    initiated_->begin();
    if (express(request, static_cast<std::uint32_t>(length), rights)) return true;
    initiated_->take_back();
    return false;
}

Status QueuePair::post(const WorkRequest& request) {
    std::uint64_t length = 0;
    const Status status = check(request, length);
    if (status != Status::success) return status;
    const bool is_inline = (request.flags & flag::kInline) != 0;
    const std::uint32_t rights = local_rights(request.type);
    if (takes_express(request, length, rights)) return Status::success;
    Buffers buffers;
    const Status local = is_inline ? buffers.acquire<true>(*pd_, request.segments, rights)
                                   : buffers.acquire<false>(*pd_, request.segments, rights);
    if (local != Status::success) return local;
    const Status posted = initiate(
        [&] { return do_post(request, buffers.get(), static_cast<std::uint32_t>(length)); });
    if (posted == Status::success && !is_inline) buffers.handed_over();
    return posted;
}

Status QueuePair::post_receive(const ReceiveRequest& request) {
    if (is_closed()) return Status::file_forced_closed;
    if (srq_ != nullptr) return Status::invalid_device_request;
    if (request.segments.size() > limits_.max_receive_sge) return Status::data_overrun;
    const std::uint64_t length = total_length(request.segments);
    if (length > info_.max_transfer_length) return Status::buffer_overflow;
    Buffers buffers;
    const Status local = buffers.acquire<false>(*pd_, request.segments, access::kLocalWrite);
    if (local != Status::success) return local;
    const Status posted = receives_->post(
        limits_.receive_queue_depth, [this] { look_for_ends(); },
        [&] {
            return do_post_receive(request, buffers.get(), static_cast<std::uint32_t>(length));
        });
    if (posted == Status::success) buffers.handed_over();
    return posted;
}

Error QueuePair::not_connected(const std::string& name) const {
    Error error{Status::connection_invalid, {}, {}, 0};
    if (state() != QueuePairState::error) {
        error.what = name + ": the queue pair is not connected";
        error.hint = "connect and complete_connect, or accept, before posting";
        return error;
    }
    const std::string why = detail_text(cause());
    error.what = name + ": the queue pair's connection has ended" + (why.empty() ? "" : ": " + why);
    error.hint = "a queue pair lives for one connection: create another";
    error.os_error = error_number_of(cause());
    return error;
}

Error QueuePair::explain(Status status, const WorkRequest& request) const {
    const std::string name = operation_name(request);
    const auto text = [](std::uint64_t number) { return std::to_string(number); };
    const OperationRow row = row_of(request.type);
    const bool is_legal = (request.flags & ~legal_flags(row, request)) == 0;
    Error error = common_error(status, name, *this);
    if (status == Status::file_forced_closed) {
        error.what = name + ": the queue pair is closed";
    } else if (status == Status::access_denied) {
        error.what = std::string(row.name) + ": the remote buffer does not grant " +
                     right_name(row.remote_right);
        error.hint = "its owner must register it with that access";
    } else if (status == Status::invalid_parameter &&
               total_length(request.segments) > request.remote_size) {
        error.what = text(total_length(request.segments)) +
                     " local bytes exceed the remote buffer of " + text(request.remote_size) +
                     " bytes";
        error.hint = "name a smaller part of the local array";
    } else if (status == Status::invalid_parameter && is_atomic(request.type) && is_legal) {
        error.what = name + ": " + text(total_length(request.segments)) +
                     " local bytes and the address " + text(request.remote_address) +
                     " are not those of an aligned word";
        error.hint = "both sides are 8 bytes, the remote address a multiple of 8";
    } else if (status == Status::invalid_parameter) {
        error.what = name + ": flags " + text(request.flags) + " contain a bit that " + name +
                     " does not take";
        error.hint = "see Flag; rights are flags of bind and fast_register";
    } else if (status == Status::buffer_overflow && (request.flags & flag::kInline) != 0) {
        error.what = name + ": " + text(total_length(request.segments)) +
                     " inline bytes exceed the queue pair's inline_size " +
                     text(limits_.inline_size);
        error.hint = "send without Flag.INLINE, or create_qp(inline_size=...)";
    } else if (status == Status::buffer_overflow) {
        error.what = name + ": " + text(total_length(request.segments)) +
                     " bytes exceed the adapter's max_transfer_length " +
                     text(info_.max_transfer_length);
        error.hint = "split the request";
    } else if (status == Status::data_overrun) {
        error.what = name + ": " + text(request.segments.size()) +
                     " segments exceed the queue pair's max_initiator_sge " +
                     text(limits_.max_initiator_sge);
        error.hint = "create_qp(max_initiator_sge=...), or post several requests";
    } else if (status == Status::invalid_device_request) {
        error.what = name + ": the outbound read limit of this connection is 0";
        error.hint = "connect with outbound_read_limit, and the peer with inbound_read_limit";
    } else if (status == Status::internal_error) {
        error.what = name + ": the device did not take the request";
    } else if (status == Status::access_violation) {
        error.what = name +
                     ": a segment is outside its region, of another protection domain, without "
                     "the right needed, or its token is dead";
        for (const Segment& segment : request.segments) error.what += "; " + segment_text(segment);
        error.hint = (sink_rights() & access::kRdmaReadSink) == 0
                         ? "reads need Access.LOCAL_WRITE on their sink"
                         : "reads need Access.RDMA_READ_SINK on their sink with this adapter";
    }
    return error;
}

Error QueuePair::explain(Status status, const ReceiveRequest& request) const {
    Error error = explain_receive(status, request, *pd_, limits_.max_receive_sge,
                                  "create_qp(max_receive_sge=...)");
    if (status == Status::file_forced_closed) {
        error.what = "receive: the queue pair is closed";
    } else if (status == Status::invalid_device_request) {
        error.what = "receive: the queue pair takes its receives from a shared receive queue";
        error.hint = "post to the shared receive queue";
    } else if (status == Status::no_more_entries) {
        error.what = "receive: the receive queue is full (" +
                     std::to_string(limits_.receive_queue_depth) + " receives outstanding)";
        error.hint = "poll completions first, or create_qp(receive_queue_depth=...)";
    }
    return error;
}

Error explain_receive(Status status, const ReceiveRequest& request, const ProtectionDomain& pd,
                      std::uint32_t max_sge, const char* remedy) {
    Error error{status, {}, {}, 0};
    if (status == Status::data_overrun) {
        error.what = "receive: " + std::to_string(request.segments.size()) +
                     " segments exceed the queue's most, " + std::to_string(max_sge);
        error.hint = remedy;
    } else if (status == Status::buffer_overflow) {
        error.what = "receive: " + std::to_string(total_length(request.segments)) +
                     " bytes exceed the adapter's max_transfer_length " +
                     std::to_string(pd.info().max_transfer_length);
    } else {
        error.what =
            "receive: a segment is outside its region, of another protection domain, "
            "not writable, or its token is dead";
        for (const Segment& segment : request.segments) {
            error.what += "; " + segment_text(segment);
        }
        error.hint = "register the array with Access.LOCAL_WRITE";
    }
    return error;
}

}  // namespace ndv::core

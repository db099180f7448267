// SPDX-License-Identifier: Apache-2.0
// Where the requests of a soft queue pair end, and where its stream does.
#include <cerrno>
#include <utility>

#include "providers/soft/mapping.hpp"
#include "providers/soft/queue_pair.hpp"

namespace ndv::soft {
namespace {

core::OperationType type_of(iwarp::RequestKind kind) {
    switch (kind) {
#define NDV_X(name, build, answer, operation, ...) \
    case iwarp::RequestKind::name:                 \
        return core::OperationType::operation;
        NDV_REQUEST_LIST(NDV_X)
#undef NDV_X
    }
    return core::OperationType::send;
}

core::Detail detail_of(const iwarp::Cause& cause) {
    core::Detail detail;
    switch (cause.source) {
        case iwarp::Cause::Source::none:
            break;
        case iwarp::Cause::Source::local:
            detail.source = core::Detail::Source::local;
            break;
        case iwarp::Cause::Source::peer:
            detail.source = core::Detail::Source::peer;
            break;
        case iwarp::Cause::Source::system:
            detail.source = core::Detail::Source::system;
            break;
    }
    detail.layer = cause.code.layer;
    detail.error_type = cause.code.error_type;
    detail.code = cause.code.code;
    detail.os_error = static_cast<std::uint16_t>(cause.os_error);
    return detail;
}

void release_segments(std::span<iwarp::PostedSegment> segments) {
    for (const iwarp::PostedSegment& segment : segments) {
        if (segment.owner != nullptr) static_cast<core::BufferHold*>(segment.owner)->release();
    }
}

}  // namespace

void QueuePair::deliver_completions() {
    iwarp::StreamCompletion done;
    while (stream_->poll_completion(done)) complete(done);
}

// Requests of a queue pair that was flushed before it had a connection, or after it lost it.
void QueuePair::cancel_unconnected() {
    iwarp::StreamCompletion done;
    done.status = Status::cancelled;
    while (true) {
        if (send_queue_.cursor.head_position() != send_queue_.cursor.published()) {
            done.is_receive = false;
            done.position = send_queue_.cursor.head_position();
        } else if (receive_queue_.cursor.head_position() != receive_queue_.cursor.published()) {
            done.is_receive = true;
            done.position = receive_queue_.cursor.head_position();
        } else {
            break;
        }
        complete(done);
    }
}

void QueuePair::complete(const iwarp::StreamCompletion& done) {
    core::Completion out;
    out.status = done.status;
    out.detail = detail_of(done.cause);
    // A flush in the engine's eyes, which knows nothing of what is around it.
    if (done.status == Status::cancelled && out.detail.source == core::Detail::Source::none) {
        out.detail = cause();
    }
    bool is_silent = false;
    if (done.is_receive) {
        iwarp::ReceiveRequest& request = receive_queue_[done.position];
        out.type = core::OperationType::receive;
        if (request.has_invalidated && done.status == Status::success) {
            out.type = core::OperationType::receive_and_invalidate;
            out.invalidated_token = request.invalidated_stag;
        }
        if (request.has_immediate && done.status == Status::success) {
            out.has_immediate = true;
            out.immediate = request.immediate;
        }
        out.context = request.context;
        out.context_is_object = request.context_is_object;
        out.is_solicited = request.is_solicited;
        out.bytes_transferred = done.status == Status::success ? request.received : 0;
        release_segments(receive_queue_.segments(done.position));
    } else {
        iwarp::SendRequest& request = send_queue_[done.position];
        out.type = type_of(request.kind);
        out.context = request.context;
        out.context_is_object = request.context_is_object;
        is_silent = request.is_silent && done.status == Status::success;
        release_segments(send_queue_.segments(done.position));
        if (iwarp::is_local(request.kind) && request.operation != nullptr) {
            auto* const mapping = static_cast<Mapping*>(request.operation);
            mapping->leave_queue();
            mapping->release();
        }
    }
    // The slot is free before the completion shows. The request stays outstanding until it is
    // polled, and the program that polls it may post at once.
    if (stream_) {
        stream_->retire(done);
    } else if (done.is_receive) {
        receive_queue_.cursor.retire();
    } else {
        send_queue_.cursor.retire();
    }
    if (is_silent) {
        end_silently(out.context, out.context_is_object);
        return;
    }
    if (deliver(done.is_receive, out)) return;
    is_flushed_ = true;
    if (stream_) stream_->handle_flush();
}

void QueuePair::note_over() {
    if (stream_->cause().source != iwarp::Cause::Source::none) {
        note_cause(detail_of(stream_->cause()));
    }
    set_state(core::QueuePairState::error);
}

void QueuePair::stop_watching() {
    soft_receive_cq_.detach(*this, link_->descriptor());
    if (&soft_initiator_cq_ != &soft_receive_cq_) {
        soft_initiator_cq_.detach(*this, link_->descriptor());
    }
    if (bell_) progress_->remove(*bell_, bell_->descriptor());
    progress_->remove(*this, link_->descriptor());
}

void QueuePair::end_without_memory() {
    if (stream_) {
        stream_->handle_link_error(ENOMEM);
        return;
    }
    if (!link_) return;
    stop_watching();
    link_.reset();
    is_flushed_ = true;
    note_cause(detail_of({iwarp::Cause::Source::system, {}, ENOMEM}));
    if (const auto observer = observer_.lock()) observer->on_over(true, ENOMEM);
}

// The stream is over: the socket lingers without us, the queue pair stays for its completions.
void QueuePair::end_stream() {
    set_state(core::QueuePairState::error);
    is_flushed_ = true;
    const iwarp::Cause cause = stream_->cause();
    count_traffic();
    stream_->end_step();
    stop_watching();
    if (soft_srq_ != nullptr) soft_srq_->leave(*this);
    held_since_.store(0, std::memory_order_relaxed);  // see its declaration
    if (cause.source != iwarp::Cause::Source::system) {
        link_->shut_write();
        progress_->linger(std::move(link_),
                          has_begun_ ? Progress::Peer::known : Progress::Peer::stranger);
    }
    link_.reset();
    stream_.reset();
    connection_ = nullptr;
    direct_ = nullptr;
    bell_.reset();
    reach_.reset();
    meeting_.reset();
    // acq_rel: pairs with do_post_receive().
    receives_need_step_.exchange(1, std::memory_order_acq_rel);
    cancel_unconnected();
    hold_until_.reset();
    relief_at_.reset();
    if (std::exchange(deadline_, std::nullopt)) progress_->clear_deadline(*this);
    if (const auto observer = observer_.lock()) {
        observer->on_over(cause.source != iwarp::Cause::Source::none, cause.os_error);
    }
}

}  // namespace ndv::soft

// SPDX-License-Identifier: Apache-2.0
// Messages on their way out: which one comes next, its frames, and what a peer's Terminate means.
#include <algorithm>

#include "iwarp/sender.hpp"

namespace ndv::iwarp {
namespace {

// Payload of one FPDU behind `header` bytes: a multiple of four, so that only the last segment
// of a message is padded.
std::uint32_t segment_limit(std::uint32_t max_fpdu, std::size_t header) {
    return (max_fpdu - static_cast<std::uint32_t>(header + kCrcSize)) & ~3U;
}

// After the opening, and after the first one.
constexpr Time kFirstWake = std::chrono::milliseconds(50);
constexpr Time kSecondWake = std::chrono::seconds(1);

Opcode send_opcode(const SendRequest& request) {
    if (request.invalidates) {
        return request.solicits ? Opcode::send_solicited_invalidate : Opcode::send_invalidate;
    }
    return request.solicits ? Opcode::send_solicited : Opcode::send;
}

}  // namespace

ErrorCode read_error(AccessResult result) {
    switch (result) {
        case AccessResult::granted:
        case AccessResult::invalid_stag:
            break;
        case AccessResult::not_associated:
            return error::kReadNotAssociated;
        case AccessResult::denied:
            return error::kReadAccess;
        case AccessResult::wrap:
            return error::kReadWrap;
        case AccessResult::bounds:
            return error::kReadBounds;
    }
    return error::kReadInvalidStag;
}

bool Sender::can_start_request() {
    if (request_next_ == send_queue_.cursor.published()) return false;
    const SendRequest& request = send_queue_[request_next_];
    if (request.is_fenced && reads_.count() > 0) return false;
    return !is_answered(request.kind) || (reads_.count() < life_.config().ord && !reads_.is_full());
}

// An atomic changes memory: not while a response to an earlier read is still to be read from it.
bool Sender::has_response() {
    if (!jobs_.has_next()) return false;
    return gathered_reads_ == 0 || !jobs_.next().is_atomic;
}

bool Sender::build_next_frame() {
    if (terminate_pending_) {
        build_terminate();
        return true;
    }
    if (!life_.is_open() || is_held_) return false;
    if (rtr_pending_) {
        build_rtr();
        return true;
    }
    if (must_wake_peer()) {
        wake_at_ = life_.now() + kSecondWake;
        --wakes_left_;
        build_empty_write();
        return true;
    }
    if (!message_open_) {
        const bool has_answer = has_response();
        const bool has_request = can_start_request();
        if (has_request && is_local(send_queue_[request_next_].kind)) {
            execute_local_request();
            return true;  // no frame, but what is behind it may have one
        }
        if (!has_answer && !has_request) return false;
        const bool is_response = has_answer && (response_turn_ || !has_request);
        response_turn_ = !is_response;
        message_source_ = is_response ? FrameSource::response : FrameSource::request;
        message_offset_ = 0;
        message_open_ = true;
    }
    if (message_source_ == FrameSource::response) return build_response_frame();
    if (life_.peer_has_closed() && is_answered(send_queue_[request_next_].kind)) {
        // No peer is left to answer it.
        life_.blame(request_next_, Status::io_timeout);
        life_.end({Cause::Source::local, error::kLlpClosed, 0});
        return false;
    }
    build_request_frame();
    return true;
}

// The initiator's first FPDU. Without an agreed kind a zero-length Write serves: every peer takes
// it without a check, and a responder that waits for the first FPDU is released.
void Sender::build_rtr() {
    rtr_pending_ = false;
    if (life_.config().wakes_peer) {
        wakes_left_ = 2;
        wake_at_ = life_.now() + kFirstWake;
    }
    if (life_.config().rtr != RtrKind::read) {
        build_empty_write();
        return;
    }
    Frame& out = begin_frame(FrameSource::control);
    reads_.has_opening = true;
    finish_frame(out, put_message(out.bytes, Opcode::read_request, read_msn_++, ReadRequestBody{}));
}

void Sender::build_empty_write() {
    Frame& out = begin_frame(FrameSource::control);
    TaggedHeader header;
    header.control = control_of(Opcode::write, TaggedHeader::kSize, 0, true);
    header.emit(std::span(out.bytes).first<TaggedHeader::kSize>());
    finish_frame(out, TaggedHeader::kSize);
}

// Between two messages: a Write in the middle of another is an error.
bool Sender::must_wake_peer() const {
    return wakes_left_ > 0 && life_.now() >= wake_at_ && !message_open_;
}

void Sender::build_terminate() {
    terminate_pending_ = false;
    Frame& out = begin_frame(FrameSource::control);
    std::span<std::byte> bytes(out.bytes);
    const std::size_t size =
        UntaggedHeader::kSize +
        terminate_.emit(bytes.subspan<UntaggedHeader::kSize, TerminateBody::kMaxSize>());
    put_header(bytes, Opcode::terminate, 1, size);
    out.is_terminate = true;
    finish_frame(out, size);
}

Control Sender::put_header(std::span<std::byte> to, Opcode opcode, std::uint32_t msn,
                           std::size_t size) {
    UntaggedHeader header;
    header.control = control_of(opcode, size, 0, true);
    header.queue_number = row_of(opcode).queue;
    header.msn = msn;
    header.emit(to.first<UntaggedHeader::kSize>());
    return header.control;
}

Sender::Frame& Sender::begin_frame(FrameSource source, std::uint32_t position) {
    Frame& out = frame(frame_tail_);
    out.source = source;
    out.position = position;
    out.is_last = out.is_terminate = false;
    out.pin = Pin{};
    return out;
}

void Sender::build_request_frame() {
    Frame& out = begin_frame(FrameSource::request, request_next_);
    switch (send_queue_[request_next_].kind) {
#define NDV_X(name, build, ...) \
    case RequestKind::name:     \
        return build_##build(out);
        NDV_REQUEST_LIST(NDV_X)
#undef NDV_X
    }
}

void Sender::build_read(Frame& out) {
    SendRequest& request = send_queue_[request_next_];
    request.sink_stag = next_sink_stag();
    request.received = 0;
    ReadRequestBody body;
    body.sink_stag = request.sink_stag;
    body.size = request.length;
    body.source_stag = request.remote_token;
    body.source_to = request.remote_address;
    reads_.push(request_next_);
    out.is_last = true;
    finish_request(out, put_message(out.bytes, Opcode::read_request, read_msn_++, body), 0);
}

void Sender::build_write(Frame& out) {
    const SendRequest& request = send_queue_[request_next_];
    const std::uint32_t size =
        std::min(request.length - message_offset_, segment_limit(max_fpdu_, TaggedHeader::kSize));
    const bool is_last = message_offset_ + size == request.length;
    immediate_is_next_ = is_last && request.kind == RequestKind::write_immediate;
    out.is_last = is_last && !immediate_is_next_;
    TaggedHeader tagged;
    tagged.control = control_of(Opcode::write, TaggedHeader::kSize, size, is_last);
    tagged.stag = request.remote_token;
    tagged.to = request.remote_address + message_offset_;
    tagged.emit(std::span(out.bytes).first<TaggedHeader::kSize>());
    finish_request(out, TaggedHeader::kSize, size);
}

void Sender::build_send(Frame& out) {
    const SendRequest& request = send_queue_[request_next_];
    const std::uint32_t size =
        std::min(request.length - message_offset_, segment_limit(max_fpdu_, UntaggedHeader::kSize));
    out.is_last = message_offset_ + size == request.length;
    UntaggedHeader untagged;
    untagged.control = control_of(send_opcode(request), UntaggedHeader::kSize, size, out.is_last);
    untagged.invalidate_stag = request.invalidates ? request.remote_token : 0;
    untagged.queue_number = kQueueSend;
    untagged.msn = send_msn_;
    untagged.mo = message_offset_;
    untagged.emit(std::span(out.bytes).first<UntaggedHeader::kSize>());
    if (out.is_last) ++send_msn_;
    finish_request(out, UntaggedHeader::kSize, size);
}

void Sender::finish_request(Frame& out, std::size_t header, std::uint32_t payload) {
    finish_frame(out, header, payload, send_queue_.segments(request_next_), message_offset_);
    message_offset_ += payload;
    if (out.is_last) {
        message_open_ = false;
        ++request_next_;
    }
}

// False: the source is gone or was never granted; a Terminate takes the frame's place.
bool Sender::build_response_frame() {
    Job& job = jobs_.next();
    if (job.is_atomic) return build_atomic_response();
    Frame& out = begin_frame(FrameSource::response, jobs_.next_position());
    const std::uint32_t size =
        std::min(job.body.size - job.built, segment_limit(max_fpdu_, TaggedHeader::kSize));
    Pin pin;
    if (size > 0) {
        const AccessResult result = memory_.pin(
            job.body.source_stag, job.body.source_to + job.built,
            // The whole rest at once: a read beyond the region must not deliver its beginning.
            job.body.size - job.built, RemoteRight::read, pin);
        if (result != AccessResult::granted) {
            fail_read(job, job.built, result);
            return terminate_pending_;
        }
    }
    TaggedHeader header;
    out.is_last = job.built + size == job.body.size;
    header.control = control_of(Opcode::read_response, TaggedHeader::kSize, size, out.is_last);
    header.stag = job.body.sink_stag;
    header.to = job.body.sink_to + job.built;
    header.emit(std::span<std::byte>(out.bytes).first<TaggedHeader::kSize>());
    finish_frame(out, TaggedHeader::kSize, size, {}, 0, &pin);
    out.payload_offset = job.built;
    out.pin = pin;
    if (out.payload_size == 0) {
        unpin(out);  // copied
    } else {
        ++gathered_reads_;
    }
    job.built += size;
    if (out.is_last) {
        message_open_ = false;
        jobs_.note_built();
    }
    return true;
}

// The culprit is the Read Request, advanced by the `done` bytes that went out already.
void Sender::fail_read(const Job& job, std::uint32_t done, AccessResult result) {
    Culprit culprit;
    ReadRequestBody body = job.body;
    body.sink_to += done;
    body.source_to += done;
    body.size -= done;
    const std::size_t size = put_message(culprit.bytes, Opcode::read_request, job.msn, body);
    culprit.control = control_of(Opcode::read_request, size, 0, true);
    life_.fail(read_error(result), &culprit);
}

// The peer refused something. An embedded Read Request names one of our reads; otherwise the
// oldest request that is still open is the best guess, and on iWARP there may be none.
void Sender::blame_for(const TerminateBody& body) {
    if (body.has_read_request && !reads_.is_empty()) {
        const auto refused = ReadRequestBody::parse(body.read_request);
        for (std::uint32_t i = 0; i != reads_.size(); ++i) {
            const std::uint32_t position = reads_[i];
            if (send_queue_[position].sink_stag == refused.sink_stag) {
                life_.blame(position, Status::remote_resources);
                return;
            }
        }
    }
    if (blame_atomic(body)) return;
    // DDP refuses what carries payload, which a Read Request does not.
    const bool is_ddp = body.error.layer == static_cast<std::uint8_t>(Layer::ddp);
    const bool is_open = message_open_ && message_source_ == FrameSource::request;
    const std::uint32_t end = request_next_ + (is_open ? 1 : 0);
    for (std::uint32_t i = send_queue_.cursor.head_position(); i != end; ++i) {
        const SendRequest& request = send_queue_[i];
        if (request.progress == SendRequest::Progress::done) continue;
        if (is_ddp && is_answered(request.kind)) continue;
        life_.blame(i, Status::remote_resources);
        return;
    }
}

// Unpredictable, so that a confused or hostile peer cannot aim at a read that it was not asked
// for; never the region tokens of this process.
std::uint32_t Sender::next_sink_stag() {
    std::uint64_t x = life_.config().seed + 0x9E3779B97F4A7C15ULL * ++sink_counter_;
    x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9ULL;  // splitmix64
    x = (x ^ (x >> 27U)) * 0x94D049BB133111EBULL;
    const auto stag = static_cast<std::uint32_t>(x >> 32U);
    return stag == 0 ? 1 : stag;
}

}  // namespace ndv::iwarp

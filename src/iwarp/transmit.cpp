// SPDX-License-Identifier: Apache-2.0
// What goes out: requests, read responses and Terminates become FPDUs; a gather list of header,
// pointer into the region, and trailer for many FPDUs at once.
#include <algorithm>
#include <cstring>

#include "base/bytes.hpp"
#include "base/crc32c.hpp"
#include "iwarp/connection.hpp"

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

bool Connection::wants_write() {
    if (state_ == State::over) return false;
    if (frame_head_ != frame_tail_ || terminate_pending_) return true;
    if (state_ != State::open || is_held_) return false;
    return rtr_pending_ || message_open_ || must_wake_peer() || has_response() ||
           can_start_request();
}

bool Connection::has_large_backlog(std::size_t threshold) {
    if (state_ != State::open || is_held_) return false;
    std::size_t bytes = frame_bytes_;
    std::uint32_t waiting = request_next_;
    if (message_open_ && message_source_ == FrameSource::request) {
        bytes += send_queue_[waiting++].length - message_offset_;
    }
    const std::uint32_t published = send_queue_.cursor.published();
    for (std::uint32_t i = waiting; i != published && bytes <= threshold; ++i) {
        if (!is_answered(send_queue_[i].kind)) bytes += send_queue_[i].length;
    }
    for (std::uint32_t i = job_next_; i != job_tail_ && bytes <= threshold; ++i) {
        const Job& job = jobs_[i % jobs_.size()];
        bytes += job.body.size - job.built;
    }
    return bytes > threshold;
}

std::size_t Connection::poll_transmit(iovec* out, std::size_t max, std::size_t budget) {
    if (state_ == State::over) return 0;
    if (frame_head_ == frame_tail_) summed_end_ = 0;
    while (has_frame_room() && frame_bytes_ < budget && build_next_frame()) {
    }
    std::size_t count = 0;
    std::size_t skip = frame_sent_;
    for (std::uint32_t i = frame_head_; i != frame_tail_ && count < max; ++i) {
        count += gather(frame(i), skip, out + count, max - count);
        skip = 0;
    }
    return count;
}

// For one more frame of any size.
bool Connection::has_frame_room() const {
    return frame_tail_ - frame_head_ < kFrameCount && summed_end_ + kMaxFpdu <= kSummedBytes;
}

std::size_t Connection::gather(const Frame& from, std::size_t skip, iovec* out, std::size_t max) {
    std::size_t count = 0;
    if (skip < from.head_size) {
        out[count++] = {from.head + skip, from.head_size - skip};
        skip = 0;
    } else {
        skip -= from.head_size;
    }
    if (skip < from.payload_size) {
        const std::size_t size = from.payload_size - skip;
        std::size_t pieces = 0;
        if (from.source == FrameSource::response) {
            pieces = slice_pin(memory_, from.pin, skip, size, out + count, max - count);
        } else {
            pieces = slice_segments(send_queue_.segments(from.position), from.payload_offset + skip,
                                    size, out + count, max - count);
        }
        std::size_t covered = 0;
        for (std::size_t i = 0; i < pieces; ++i) covered += out[count + i].iov_len;
        count += pieces;
        if (covered < size) return count;  // the list is full
        skip = 0;
    } else {
        skip -= from.payload_size;
    }
    if (skip < from.tail_size && count < max) {
        out[count++] = {const_cast<std::byte*>(from.tail.data()) + skip, from.tail_size - skip};
    }
    return count;
}

void Connection::handle_sent(std::size_t size) {
    counters_.bytes_out += size;
    frame_bytes_ -= std::min(frame_bytes_, size);
    while (frame_head_ != frame_tail_) {
        Frame& oldest = frame(frame_head_);
        const std::size_t left = oldest.size() - frame_sent_;
        if (size < left) {
            frame_sent_ += size;
            return;
        }
        size -= left;
        frame_sent_ = 0;
        ++frame_head_;
        ++counters_.fpdus_out;
        frame_sent(oldest);
        if (state_ == State::over) return;
    }
    check_drained();
}

void Connection::frame_sent(Frame& sent) {
    unpin(sent);
    if (sent.source == FrameSource::response && sent.payload_size > 0) --gathered_reads_;
    if (sent.is_terminate) {
        go_over();
        return;
    }
    if (!sent.is_last) return;
    if (sent.source == FrameSource::request) {
        SendRequest& request = send_queue_[sent.position];
        // The last byte is with TCP: the buffer may be reused, and no more than that is promised.
        request.progress = is_answered(request.kind) ? SendRequest::Progress::transmitted
                                                     : SendRequest::Progress::done;
    } else if (sent.source == FrameSource::response) {
        ++job_head_;
    }
}

void Connection::unpin(Frame& out) {
    if (out.pin.entry != nullptr) memory_.unpin(out.pin);
    out.pin = Pin{};
}

// Keeps the frame of which the peer already has a part.
void Connection::drop_unsent_frames() {
    const std::uint32_t keep = frame_head_ + (frame_sent_ > 0 ? 1 : 0);
    for (std::uint32_t i = keep; i != frame_tail_; ++i) {
        frame_bytes_ -= frame(i).size();
        unpin(frame(i));
    }
    frame_tail_ = keep;
}

bool Connection::can_start_request() {
    if (request_next_ == send_queue_.cursor.published()) return false;
    const SendRequest& request = send_queue_[request_next_];
    if (request.is_fenced && outstanding_reads() > 0) return false;
    if (is_answered(request.kind)) {
        return outstanding_reads() < config_.ord && read_tail_ - read_head_ < reads_.size();
    }
    return true;
}

// An atomic changes memory: not while a response to an earlier read is still to be read from it.
bool Connection::has_response() const {
    if (job_next_ == job_tail_) return false;
    return gathered_reads_ == 0 || !jobs_[job_next_ % jobs_.size()].is_atomic;
}

bool Connection::build_next_frame() {
    if (terminate_pending_) {
        build_terminate();
        return true;
    }
    if (state_ != State::open || is_held_) return false;
    if (rtr_pending_) {
        build_rtr();
        return true;
    }
    if (must_wake_peer()) {
        wake_at_ = now_ + kSecondWake;
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
    if (peer_closed_ && is_answered(send_queue_[request_next_].kind)) {
        // Nobody is left to answer it.
        cause_ = {Cause::Source::local, error::kLlpClosed, 0};
        blame_request(request_next_, Status::io_timeout);
        go_over();
        return false;
    }
    build_request_frame();
    return true;
}

// The initiator's first FPDU. Without an agreed kind a zero-length Write serves: every peer takes
// it without a check, and a responder that waits for the first FPDU is released.
void Connection::build_rtr() {
    rtr_pending_ = false;
    if (config_.wakes_peer) {
        wakes_left_ = 2;
        wake_at_ = now_ + kFirstWake;
    }
    if (config_.rtr != RtrKind::read) {
        build_empty_write();
        return;
    }
    constexpr std::size_t kHeader = UntaggedHeader::kSize + ReadRequestBody::kSize;
    Frame& out = frame(frame_tail_);
    out = Frame{};
    const std::span<std::byte> bytes(out.bytes);
    UntaggedHeader header;
    header.control = control_of(Opcode::read_request, kHeader, 0, true);
    header.queue_number = kQueueReadRequest;
    header.msn = read_msn_++;
    header.emit(bytes.first<UntaggedHeader::kSize>());
    ReadRequestBody{}.emit(bytes.subspan<UntaggedHeader::kSize, ReadRequestBody::kSize>());
    rtr_read_outstanding_ = true;
    add_payload(out, kHeader, {}, 0, 0);
    finish_frame(out);
}

void Connection::build_empty_write() {
    Frame& out = frame(frame_tail_);
    out = Frame{};
    TaggedHeader header;
    header.control = control_of(Opcode::write, TaggedHeader::kSize, 0, true);
    header.emit(std::span(out.bytes).first<TaggedHeader::kSize>());
    add_payload(out, TaggedHeader::kSize, {}, 0, 0);
    finish_frame(out);
}

// Between two messages: a Write in the middle of another is an error.
bool Connection::must_wake_peer() const {
    return wakes_left_ > 0 && now_ >= wake_at_ && !message_open_;
}

void Connection::build_terminate() {
    terminate_pending_ = false;
    Frame& out = frame(frame_tail_);
    out = Frame{};
    std::span<std::byte> bytes(out.bytes);
    const std::size_t size =
        UntaggedHeader::kSize +
        terminate_.emit(bytes.subspan<UntaggedHeader::kSize, TerminateBody::kMaxSize>());
    UntaggedHeader header;
    header.control = control_of(Opcode::terminate, size, 0, true);
    header.queue_number = kQueueTerminate;
    header.msn = 1;
    header.emit(bytes.first<UntaggedHeader::kSize>());
    out.is_terminate = true;
    add_payload(out, size, {}, 0, 0);
    finish_frame(out);
}

void Connection::begin_frame(Frame& out, FrameSource source, std::uint32_t position) {
    out.source = source;
    out.position = position;
    out.is_terminate = false;
    out.pin = Pin{};
}

void Connection::build_request_frame() {
    Frame& out = frame(frame_tail_);
    begin_frame(out, FrameSource::request, request_next_);
    switch (send_queue_[request_next_].kind) {
#define NDV_X(name, build, ...) \
    case RequestKind::name:     \
        return build_##build(out);
        NDV_REQUEST_LIST(NDV_X)
#undef NDV_X
    }
}

void Connection::build_read(Frame& out) {
    constexpr std::size_t kHeader = UntaggedHeader::kSize + ReadRequestBody::kSize;
    SendRequest& request = send_queue_[request_next_];
    const std::span<std::byte> bytes(out.bytes);
    request.sink_stag = next_sink_stag();
    request.received = 0;
    UntaggedHeader untagged;
    untagged.control = control_of(Opcode::read_request, kHeader, 0, true);
    untagged.queue_number = kQueueReadRequest;
    untagged.msn = read_msn_++;
    untagged.emit(bytes.first<UntaggedHeader::kSize>());
    ReadRequestBody body;
    body.sink_stag = request.sink_stag;
    body.size = request.length;
    body.source_stag = request.remote_token;
    body.source_to = request.remote_address;
    body.emit(bytes.subspan<UntaggedHeader::kSize, ReadRequestBody::kSize>());
    reads_[read_tail_++ % reads_.size()] = request_next_;
    out.is_last = true;
    finish_request(out, kHeader, 0);
}

void Connection::build_write(Frame& out) {
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

void Connection::build_send(Frame& out) {
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

void Connection::finish_request(Frame& out, std::size_t header, std::uint32_t payload) {
    add_payload(out, header, send_queue_.segments(request_next_), message_offset_, payload);
    finish_frame(out);
    message_offset_ += payload;
    if (out.is_last) {
        message_open_ = false;
        ++request_next_;
    }
}

// False: the source is gone or was never granted; a Terminate takes the frame's place.
bool Connection::build_response_frame() {
    Job& job = jobs_[job_next_ % jobs_.size()];
    if (job.is_atomic) return build_atomic_response();
    Frame& out = frame(frame_tail_);
    begin_frame(out, FrameSource::response, job_next_);
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
    add_payload(out, TaggedHeader::kSize, {}, 0, size, &pin);
    finish_frame(out);
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
        ++job_next_;
    }
    return true;
}

// The culprit is the Read Request, advanced by the `done` bytes that went out already.
void Connection::fail_read(const Job& job, std::uint32_t done, AccessResult result) {
    opcode_ = Opcode::read_request;
    control_ =
        control_of(Opcode::read_request, UntaggedHeader::kSize + ReadRequestBody::kSize, 0, true);
    UntaggedHeader header;
    header.control = control_;
    header.queue_number = kQueueReadRequest;
    header.msn = job.msn;
    ReadRequestBody body = job.body;
    body.sink_to += done;
    body.source_to += done;
    body.size -= done;
    std::span<std::byte> culprit(culprit_);
    header.emit(culprit.first<UntaggedHeader::kSize>());
    body.emit(culprit.subspan<UntaggedHeader::kSize, ReadRequestBody::kSize>());
    fail(read_error(result), true);
}

// Small payload is copied behind the header, so that the frame is one piece. With CRC all payload
// is: what is sent must be what was summed, and memory may change in between. (Copying, then
// summing the warm copy, is faster than one pass that does both.)
void Connection::add_payload(Frame& out, std::size_t header,
                             std::span<const PostedSegment> segments, std::uint32_t offset,
                             std::uint32_t size, const Pin* pin) {
    out.head = out.bytes.data();
    out.head_size = static_cast<std::uint32_t>(header);
    out.payload_offset = offset;
    out.payload_size = out.tail_size = 0;
    if (size > kCopyLimit) {
        if (!config_.crc) {
            out.payload_size = size;
            return;
        }
        out.head = summed_.get() + summed_end_;
        std::memcpy(out.head, out.bytes.data(), header);
        summed_end_ += fpdu_size(header + size - kLengthSize);
    }
    std::array<iovec, 16> pieces;
    std::uint32_t done = 0;
    while (done < size) {
        const std::size_t count =
            pin != nullptr
                ? slice_pin(memory_, *pin, done, size - done, pieces.data(), pieces.size())
                : slice_segments(segments, offset + done, size - done, pieces.data(),
                                 pieces.size());
        for (std::size_t i = 0; i < count; ++i) {
            std::memcpy(out.head + out.head_size, pieces[i].iov_base, pieces[i].iov_len);
            out.head_size += static_cast<std::uint32_t>(pieces[i].iov_len);
            done += static_cast<std::uint32_t>(pieces[i].iov_len);
        }
    }
}

// Pad and CRC; the frame joins the queue.
void Connection::finish_frame(Frame& out) {
    const std::size_t pad = pad_size(out.head_size + out.payload_size - kLengthSize);
    std::byte* const tail = out.payload_size == 0 ? out.head + out.head_size : out.tail.data();
    std::memset(tail, 0, pad + kCrcSize);
    if (config_.crc) {
        base::store_le32(tail + pad, base::crc32c(0, out.head, out.head_size + pad));
    }
    (out.payload_size == 0 ? out.head_size : out.tail_size) +=
        static_cast<std::uint32_t>(pad + kCrcSize);
    frame_bytes_ += out.size();
    ++frame_tail_;
}

// Unpredictable, so that a confused or hostile peer cannot aim at a read that it was not asked
// for; never the region tokens of this process.
std::uint32_t Connection::next_sink_stag() {
    std::uint64_t x = config_.seed + 0x9E3779B97F4A7C15ULL * ++sink_counter_;
    x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9ULL;  // splitmix64
    x = (x ^ (x >> 27U)) * 0x94D049BB133111EBULL;
    const auto stag = static_cast<std::uint32_t>(x >> 32U);
    return stag == 0 ? 1 : stag;
}

}  // namespace ndv::iwarp

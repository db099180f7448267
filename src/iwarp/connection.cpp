// SPDX-License-Identifier: Apache-2.0
// Life and death of a stream: steps, deadlines, errors, completions, flush.
#include "iwarp/connection.hpp"

#include <bit>
#include <cstring>

namespace ndv::iwarp {
namespace {

// With CRC a whole FPDU is staged before a byte is placed, so there is room for several; without,
// staging only takes headers and small messages.
constexpr std::size_t kStagingWithCrc = 4 * kMaxFpdu;
constexpr std::size_t kStaging = 64 * 1024;

// siw rounds its queues up to a power of two and may send that many reads.
std::uint32_t tolerated_reads(std::uint16_t ird) {
    return ird == 0 ? 0 : std::bit_ceil(static_cast<std::uint32_t>(ird));
}

}  // namespace

Connection::Connection(const ConnectionConfig& config, SendQueue& send_queue,
                       ReceiveQueue& receive_queue, RemoteMemory& memory, ReceiveSupply* supply)
    : frames_(std::make_unique<Frame[]>(kFrameCount)),
      request_next_(send_queue.cursor.head_position()),
      is_held_(!config.is_initiator),
      rtr_pending_(config.is_initiator),
      reads_(std::bit_ceil(config.ord == 0 ? 1U : static_cast<std::uint32_t>(config.ord))),
      staging_size_(config.crc ? kStagingWithCrc : kStaging),
      receive_next_(receive_queue.cursor.head_position()),
      jobs_(tolerated_reads(config.ird)),
      config_(config),
      send_queue_(send_queue),
      receive_queue_(receive_queue),
      memory_(memory),
      supply_(supply),
      max_fpdu_(config.max_fpdu) {
    staging_ = std::make_unique_for_overwrite<std::byte[]>(staging_size_);
    if (config.crc) summed_ = std::make_unique_for_overwrite<std::byte[]>(kSummedBytes);
}

Connection::~Connection() { end_step(); }

void Connection::set_max_fpdu(std::uint32_t bytes) { max_fpdu_ = bytes; }

void Connection::release_hold() { is_held_ = false; }

void Connection::begin_step(Time now) {
    now_ = now;
    if (state_ == State::terminating && now >= terminate_deadline_) go_over();
    if (is_paused_) {
        if (has_receive()) {
            is_paused_ = false;
            process();
        } else if (now >= pause_deadline_) {
            is_paused_ = false;
            fail(error::kUntaggedNoBuffer, true);
        }
    }
    take_pins_again();
}

void Connection::end_step() { let_pins_go(); }

void Connection::handle_end_of_stream() {
    if (state_ != State::open) {
        go_over();
        return;
    }
    const bool is_clean =
        phase_ == Phase::header && begin_ == end_ && !tagged_.is_active && !untagged_.is_active;
    peer_closed_ = true;
    if (!is_clean || outstanding_reads() > 0) {
        cause_ = {Cause::Source::local, error::kLlpClosed, 0};
        if (read_head_ != read_tail_) {
            blame_request(reads_[read_head_ % reads_.size()], Status::io_timeout);
        }
        go_over();
        return;
    }
    events_.peer_closed = true;
    wakes_left_ = 0;
    check_drained();
}

void Connection::handle_link_error(int os_error) {
    if (state_ == State::over) return;
    if (cause_.source == Cause::Source::none) {
        cause_ = {Cause::Source::system, {}, os_error};
        // The oldest request that has begun is the one that the dead link failed.
        const std::uint32_t head = send_queue_.cursor.head_position();
        if (head != send_queue_.cursor.published()) blame_request(head, Status::io_timeout);
    }
    go_over();
}

void Connection::handle_disconnect() {
    is_disconnecting_ = true;
    wakes_left_ = 0;
    check_drained();
}

void Connection::handle_flush() { go_over(); }

// An error that we saw: says so to the peer, then ends the stream. Requests stay pending until
// the Terminate is out, because a half-sent frame still points into their memory.
void Connection::fail(const ErrorCode& code, bool with_header, BuiltFrames built) {
    if (state_ != State::open) return;
    cause_ = {Cause::Source::local, code, 0};
    terminate_ = TerminateBody{};
    terminate_.error = code;
    if (with_header) {
        const std::size_t size =
            row_of(opcode_).is_tagged ? TaggedHeader::kSize : UntaggedHeader::kSize;
        terminate_.has_segment_length = true;
        terminate_.segment_length = control_.ulpdu_length;
        terminate_.ddp_header_size = static_cast<std::uint8_t>(size - kLengthSize);
        std::memcpy(terminate_.ddp_header.data(), culprit_.data() + kLengthSize,
                    size - kLengthSize);
        if (opcode_ == Opcode::read_request && code.layer == 0 && code.error_type == 1) {
            terminate_.has_read_request = true;
            std::memcpy(terminate_.read_request.data(), culprit_.data() + UntaggedHeader::kSize,
                        ReadRequestBody::kSize);
        }
    }
    state_ = State::terminating;
    is_paused_ = false;  // what waited takes no receive any more
    terminate_pending_ = true;
    terminate_deadline_ = now_ + config_.terminate_wait;
    if (built == BuiltFrames::drop) drop_unsent_frames();
    unpin_target();
}

void Connection::go_over() {
    if (state_ == State::over) return;
    state_ = State::over;
    unpin_target();
    for (; frame_head_ != frame_tail_; ++frame_head_) unpin(frame(frame_head_));
    frame_bytes_ = 0;
    frame_sent_ = 0;
    events_.over = true;
}

void Connection::blame_request(std::uint32_t position, Status status) {
    if (blamed_) return;
    blamed_ = position;
    blamed_status_ = status;
}

// The peer refused something. An embedded Read Request names one of our reads; otherwise the
// oldest request that is still open is the best guess, and on iWARP there may be none.
void Connection::blame_for_terminate(const TerminateBody& body) {
    if (body.has_read_request && read_head_ != read_tail_) {
        const auto refused = ReadRequestBody::parse(body.read_request);
        for (std::uint32_t i = read_head_; i != read_tail_; ++i) {
            const std::uint32_t position = reads_[i % reads_.size()];
            if (send_queue_[position].sink_stag == refused.sink_stag) {
                blame_request(position, Status::remote_resources);
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
        blame_request(i, Status::remote_resources);
        return;
    }
}

void Connection::check_drained() {
    if (!is_disconnecting_ || state_ != State::open || events_.drained) return;
    const bool is_idle = frame_head_ == frame_tail_ && !message_open_ && !rtr_pending_ &&
                         request_next_ == send_queue_.cursor.published() &&
                         outstanding_reads() == 0 && job_next_ == job_tail_;
    if (is_idle) events_.drained = true;
}

bool Connection::poll_completion(StreamCompletion& out) {
    const std::uint32_t head = send_queue_.cursor.head_position();
    if (head != send_queue_.cursor.published()) {
        const SendRequest& request = send_queue_[head];
        // Reads answered out of the order of earlier sends wait: completions follow posting.
        // Behind a request that failed nothing succeeds, as NDK has it.
        if (request.progress == SendRequest::Progress::done && !request_failed_) {
            out = {false, head, Status::success, {}};
            return true;
        }
        if (state_ == State::over) {
            out = {false, head, blamed_ == head ? blamed_status_ : Status::cancelled, cause_};
            request_failed_ = true;
            return true;
        }
    }
    const std::uint32_t receive = receive_queue_.cursor.head_position();
    if (receive == receive_queue_.cursor.published()) return false;
    if (receive != receive_next_) {
        out = {true, receive, receive_queue_[receive].status, {}};
        return true;
    }
    if (state_ != State::over) return false;
    const Status status = receive_queue_[receive].status;
    out = {true, receive, is_failure(status) ? status : Status::cancelled, cause_};
    return true;
}

void Connection::retire(const StreamCompletion& completion) {
    if (completion.is_receive) {
        if (completion.position == receive_next_) ++receive_next_;  // flushed, not filled
        receive_queue_.cursor.retire();
        return;
    }
    // A flushed request may not have been built yet.
    if (completion.position == request_next_) ++request_next_;
    send_queue_.cursor.retire();
}

StreamEvents Connection::take_events() {
    const StreamEvents taken = events_;
    events_ = StreamEvents{};
    return taken;
}

std::optional<Time> Connection::poll_deadline() const {
    if (state_ == State::terminating) return terminate_deadline_;
    if (state_ != State::open) return std::nullopt;
    if (is_paused_) return pause_deadline_;
    if (wakes_left_ > 0) return wake_at_;
    return std::nullopt;
}

}  // namespace ndv::iwarp

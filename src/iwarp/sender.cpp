// SPDX-License-Identifier: Apache-2.0
// Frames on their way out: built, gathered for the link, sent.
#include "iwarp/sender.hpp"

#include <algorithm>
#include <cstring>

#include "base/bytes.hpp"
#include "base/crc32c.hpp"

namespace ndv::iwarp {

Sender::Sender(Life& life, SendQueue& send_queue, RemoteMemory& memory)
    : life_(life),
      send_queue_(send_queue),
      memory_(memory),
      max_fpdu_(life.config().max_fpdu),
      frames_(std::make_unique<Frame[]>(kFrameCount)),
      request_next_(send_queue.cursor.head_position()),
      reads_(life.config().ord),
      jobs_(life.config().ird),
      is_held_(!life.config().is_initiator),
      rtr_pending_(life.config().is_initiator) {
    if (life.config().crc) summed_ = std::make_unique_for_overwrite<std::byte[]>(kSummedBytes);
}

bool Sender::wants_write() {
    if (life_.is_over()) return false;
    if (frame_head_ != frame_tail_ || terminate_pending_) return true;
    if (!life_.is_open() || is_held_) return false;
    return rtr_pending_ || message_open_ || must_wake_peer() || has_response() ||
           can_start_request();
}

bool Sender::has_large_backlog(std::size_t threshold) {
    if (!life_.is_open() || is_held_) return false;
    std::size_t bytes = frame_bytes_;
    std::uint32_t waiting = request_next_;
    if (message_open_ && message_source_ == FrameSource::request) {
        bytes += send_queue_[waiting++].length - message_offset_;
    }
    const std::uint32_t published = send_queue_.cursor.published();
    for (std::uint32_t i = waiting; i != published && bytes <= threshold; ++i) {
        if (!is_answered(send_queue_[i].kind)) bytes += send_queue_[i].length;
    }
    for (std::uint32_t i = jobs_.next_position(); i != jobs_.end_position() && bytes <= threshold;
         ++i) {
        const Job& job = jobs_[i];
        bytes += job.body.size - job.built;
    }
    return bytes > threshold;
}

std::size_t Sender::poll_transmit(iovec* out, std::size_t max, std::size_t budget) {
    if (life_.is_over()) return 0;
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
bool Sender::has_frame_room() const {
    return frame_tail_ - frame_head_ < kFrameCount && summed_end_ + kMaxFpdu <= kSummedBytes;
}

std::size_t Sender::gather(const Frame& from, std::size_t skip, iovec* out, std::size_t max) {
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

void Sender::handle_sent(std::size_t size) {
    life_.counters().bytes_out += size;
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
        ++life_.counters().fpdus_out;
        note_frame_sent(oldest);
        if (life_.is_over()) return;
    }
    life_.check_drained();
}

void Sender::note_frame_sent(Frame& sent) {
    unpin(sent);
    if (sent.source == FrameSource::response && sent.payload_size > 0) --gathered_reads_;
    if (sent.is_terminate) {
        life_.go_over();
        return;
    }
    if (!sent.is_last) return;
    if (sent.source == FrameSource::request) {
        SendRequest& request = send_queue_[sent.position];
        // The last byte is with TCP: the buffer may be reused, and no more than that is promised.
        request.progress = is_answered(request.kind) ? SendRequest::Progress::transmitted
                                                     : SendRequest::Progress::done;
    } else if (sent.source == FrameSource::response) {
        jobs_.note_sent();
    }
}

void Sender::unpin(Frame& out) {
    if (out.pin.entry != nullptr) memory_.unpin(out.pin);
    out.pin = Pin{};
}

// Keeps the frame of which the peer already has a part.
void Sender::drop_unsent_frames() {
    const std::uint32_t keep = frame_head_ + (frame_sent_ > 0 ? 1 : 0);
    for (std::uint32_t i = keep; i != frame_tail_; ++i) {
        frame_bytes_ -= frame(i).size();
        unpin(frame(i));
    }
    frame_tail_ = keep;
}

bool Sender::is_idle() const {
    return frame_head_ == frame_tail_ && !message_open_ && !rtr_pending_ &&
           request_next_ == send_queue_.cursor.published() && reads_.count() == 0 &&
           !jobs_.has_next();
}

void Sender::send_terminate(const TerminateBody& body, Life::BuiltFrames built) {
    terminate_ = body;
    terminate_pending_ = true;
    if (built == Life::BuiltFrames::drop) drop_unsent_frames();
}

void Sender::drop_frames() {
    for (; frame_head_ != frame_tail_; ++frame_head_) unpin(frame(frame_head_));
    frame_bytes_ = 0;
    frame_sent_ = 0;
}

// Small payload is copied behind the header, so that the frame is one piece. With CRC all payload
// is: what is sent must be what was summed, and memory may change in between. (Copying, then
// summing the warm copy, is faster than one pass that does both.)
void Sender::add_payload(Frame& out, std::size_t header, std::span<const PostedSegment> segments,
                         std::uint32_t offset, std::uint32_t size, const Pin* pin) {
    out.head = out.bytes.data();
    out.head_size = static_cast<std::uint32_t>(header);
    out.payload_offset = offset;
    out.payload_size = out.tail_size = 0;
    if (size > kCopyLimit) {
        if (!life_.config().crc) {
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

// Payload, pad and CRC; the frame joins the queue.
void Sender::finish_frame(Frame& out, std::size_t header, std::uint32_t size,
                          std::span<const PostedSegment> segments, std::uint32_t offset,
                          const Pin* pin) {
    add_payload(out, header, segments, offset, size, pin);
    const std::size_t pad = pad_size(out.head_size + out.payload_size - kLengthSize);
    std::byte* const tail = out.payload_size == 0 ? out.head + out.head_size : out.tail.data();
    std::memset(tail, 0, pad + kCrcSize);
    if (life_.config().crc) {
        base::store_le32(tail + pad, base::crc32c(0, out.head, out.head_size + pad));
    }
    (out.payload_size == 0 ? out.head_size : out.tail_size) +=
        static_cast<std::uint32_t>(pad + kCrcSize);
    frame_bytes_ += out.size();
    ++frame_tail_;
}

}  // namespace ndv::iwarp

// SPDX-License-Identifier: Apache-2.0
// Requests that change this side's memory in the order of the send queue, and the pins of frames
// that must not be held meanwhile.
#include "iwarp/sender.hpp"

namespace ndv::iwarp {

void Sender::let_pins_go() {
    for (std::uint32_t i = frame_head_; i != frame_tail_; ++i) unpin(frame(i));
}

// Frames that are built and not sent point into memory that may be gone by now.
void Sender::take_pins_again() {
    for (std::uint32_t i = frame_head_; i != frame_tail_; ++i) {
        Frame& left = frame(i);
        if (left.source != FrameSource::response || left.payload_size == 0) continue;
        if (left.pin.entry != nullptr) continue;
        const Job& job = jobs_[left.position];
        const AccessResult result =
            memory_.pin(job.body.source_stag, job.body.source_to + left.payload_offset,
                        left.payload_size, RemoteRight::read, left.pin);
        if (result == AccessResult::granted) continue;
        left.pin = Pin{};
        if (!life_.is_open()) {
            life_.go_over();
        } else if (i == frame_head_ && frame_sent_ > 0) {
            // Half an FPDU is out and its rest may not be read: the stream cannot go on.
            life_.end({Cause::Source::local, error::kReadInvalidStag, 0});
        } else {
            fail_read(job, left.payload_offset, result);
        }
        return;
    }
}

// A failure ends the connection, as every failed request does; what was posted before goes out.
void Sender::execute_local_request() {
    const std::uint32_t position = request_next_++;
    SendRequest& request = send_queue_[position];
    // Also a bind or fast_register: one that meets the end of its region ends what it has made.
    life_.let_pins_go();
    const Status status = memory_.execute(request);
    if (status == Status::success) {
        request.progress = SendRequest::Progress::done;
        take_pins_again();
        life_.check_drained();
        return;
    }
    life_.blame(position, status);
    life_.fail(error::kLocalCatastrophic, nullptr, Life::BuiltFrames::send);
    take_pins_again();
}

void Sender::end_read() {
    const std::uint32_t position = reads_.pop();
    if (send_queue_[position].invalidates) invalidate_read_sink(position);
    if (life_.is_open()) send_queue_[position].progress = SendRequest::Progress::done;
}

// The data of a read is placed; only then its sink may go.
void Sender::invalidate_read_sink(std::uint32_t position) {
    life_.let_pins_go();
    const Status status = memory_.invalidate_sink(send_queue_[position].local_token);
    if (status != Status::success) {
        life_.blame(position, status);
        life_.fail(error::kLocalCatastrophic);
    }
    take_pins_again();
}

}  // namespace ndv::iwarp

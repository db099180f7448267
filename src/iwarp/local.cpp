// SPDX-License-Identifier: Apache-2.0
// Requests that change this side's memory in the order of the send queue, and the pins that must
// not be held meanwhile: who ends memory waits for pins, and two steps that wait for each other's
// would wait for ever.
#include "iwarp/connection.hpp"

namespace ndv::iwarp {

void Connection::let_pins_go() {
    for (std::uint32_t i = frame_head_; i != frame_tail_; ++i) unpin(frame(i));
    unpin_target();
}

// Frames that are built and not sent point into memory that may be gone by now.
void Connection::take_pins_again() {
    for (std::uint32_t i = frame_head_; i != frame_tail_; ++i) {
        Frame& left = frame(i);
        if (left.source != FrameSource::response || left.payload_size == 0) continue;
        if (left.pin.entry != nullptr) continue;
        const Job& job = jobs_[left.position % jobs_.size()];
        const AccessResult result =
            memory_.pin(job.body.source_stag, job.body.source_to + left.payload_offset,
                        left.payload_size, RemoteRight::read, left.pin);
        if (result == AccessResult::granted) continue;
        left.pin = Pin{};
        if (state_ != State::open) {
            go_over();
        } else if (i == frame_head_ && frame_sent_ > 0) {
            // Half an FPDU is out and its rest may not be read: the stream cannot go on.
            cause_ = {Cause::Source::local, error::kReadInvalidStag, 0};
            go_over();
        } else {
            fail_read(job, left.payload_offset, result);
        }
        return;
    }
}

// A failure ends the connection, as every failed request does; what was posted before goes out.
void Connection::execute_local_request() {
    const std::uint32_t position = request_next_++;
    SendRequest& request = send_queue_[position];
    // Also a bind or fast_register: one that meets the end of its region ends what it has made.
    let_pins_go();
    const Status status = memory_.execute(request);
    if (status == Status::success) {
        request.progress = SendRequest::Progress::done;
        take_pins_again();
        check_drained();
        return;
    }
    blame_request(position, status);
    fail(error::kLocalCatastrophic, false, BuiltFrames::send);
    take_pins_again();
}

// The data of a read is placed; only then its sink may go.
void Connection::invalidate_read_sink(std::uint32_t position) {
    let_pins_go();
    const Status status = memory_.invalidate_sink(send_queue_[position].local_token);
    if (status != Status::success) {
        blame_request(position, status);
        fail(error::kLocalCatastrophic, false);
    }
    take_pins_again();
}

}  // namespace ndv::iwarp

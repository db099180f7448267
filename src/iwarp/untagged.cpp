// SPDX-License-Identifier: Apache-2.0
// What untagged messages share on their way in: the order of their queues (RFC 5041 section 7.1),
// and the receives that Sends and immediates take.
#include "iwarp/receiver.hpp"

namespace ndv::iwarp {

bool Receiver::can_resume() const {
    return is_paused_ && !is_withheld_ &&
           (receive_queue_.cursor.published() != receive_next_ ||
            (supply_ != nullptr && supply_->can_refill()));
}

bool Receiver::has_receive() {
    if (is_withheld_) [[unlikely]]
        return false;
    return receive_queue_.cursor.published() != receive_next_ ||
           (supply_ != nullptr && supply_->refill());
}

std::optional<Time> Receiver::held_since() const {
    if (supply_ == nullptr || receive_queue_.cursor.published() == receive_next_) return {};
    return held_since_;
}

void Receiver::resume() {
    if (!is_paused_) return;
    if (has_receive()) {
        is_paused_ = false;
        process();
    } else if (life_.now() >= pause_deadline_) {
        is_paused_ = false;
        refuse(error::kUntaggedNoBuffer);
    }
}

// Sends and immediates share a queue and its numbers.
bool Receiver::check_send_order(const UntaggedHeader& header) {
    if (header.queue_number != kQueueSend) return refuse(error::kUntaggedQueue);
    if (header.msn != expected_send_msn_) return refuse(error::kUntaggedMsn);
    return true;
}

// The receive of a message that begins.
bool Receiver::take_receive() {
    if (!has_receive()) {
        // Not an error yet: reading stops, TCP holds the peer back, a receive may come.
        is_paused_ = true;
        pause_deadline_ = life_.now() + life_.config().receive_wait;
        return false;
    }
    held_since_ = life_.now();
    held_offset_ = 0;
    ReceiveRequest& receive = receive_queue_[receive_next_];
    receive.received = 0;
    receive.status = Status::success;
    receive.is_solicited = receive.has_invalidated = receive.has_immediate = false;
    return true;
}

// Reads and atomics share a queue, its numbers, and the places for requests that wait for answers.
ErrorCode Receiver::check_request(const UntaggedHeader& header) const {
    if (header.queue_number != kQueueReadRequest) return error::kUntaggedQueue;
    if (header.msn != expected_read_msn_) return error::kUntaggedMsn;
    if (header.mo != 0) return error::kUntaggedMo;
    if (payload_size_ != 0 || !fpdu_.control.last) return error::kUnexpectedOpcode;
    if (sender_.jobs().is_full()) return error::kStreamCatastrophic;
    return error::kNone;
}

}  // namespace ndv::iwarp

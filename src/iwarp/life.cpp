// SPDX-License-Identifier: Apache-2.0
// How a stream ends, for both of its directions.
#include "iwarp/life.hpp"

#include <cstring>

#include "iwarp/receiver.hpp"
#include "iwarp/sender.hpp"

namespace ndv::iwarp {

void Life::fail(const ErrorCode& code, const Culprit* culprit, BuiltFrames built) {
    if (!is_open()) return;
    cause_ = {Cause::Source::local, code, 0};
    TerminateBody terminate;
    terminate.error = code;
    if (culprit != nullptr) {
        const std::size_t size =
            row_of(culprit->opcode()).is_tagged() ? TaggedHeader::kSize : UntaggedHeader::kSize;
        terminate.has_segment_length = true;
        terminate.segment_length = culprit->control.ulpdu_length;
        terminate.ddp_header_size = static_cast<std::uint8_t>(size - kLengthSize);
        std::memcpy(terminate.ddp_header.data(), culprit->bytes.data() + kLengthSize,
                    size - kLengthSize);
        if (culprit->opcode() == Opcode::read_request && code.layer == 0 && code.error_type == 1) {
            terminate.has_read_request = true;
            std::memcpy(terminate.read_request.data(),
                        culprit->bytes.data() + UntaggedHeader::kSize, ReadRequestBody::kSize);
        }
    }
    state_ = State::terminating;
    terminate_deadline_ = now_ + config_.terminate_wait;
    sender_.send_terminate(terminate, built);
    receiver_.stop();
}

void Life::end(const Cause& cause) {
    cause_ = cause;
    go_over();
}

void Life::go_over() {
    if (is_over()) return;
    state_ = State::over;
    receiver_.stop();
    sender_.drop_frames();
    events_.over = true;
}

void Life::disconnect() {
    is_disconnecting_ = true;
    sender_.stop_waking();
    check_drained();
}

void Life::check_drained() {
    if (is_disconnecting_ && is_open() && !events_.drained) events_.drained = sender_.is_idle();
}

void Life::blame(std::uint32_t position, Status status) {
    if (blamed_) return;
    blamed_ = position;
    blamed_status_ = status;
}

void Life::let_pins_go() {
    sender_.let_pins_go();
    receiver_.unpin_target();
}

}  // namespace ndv::iwarp

// SPDX-License-Identifier: Apache-2.0
// Which request or receive ends next, and how.
#include "iwarp/stream.hpp"

namespace ndv::iwarp {

bool Stream::poll_completion(StreamCompletion& out) {
    const std::uint32_t head = send_queue_.cursor.head_position();
    if (head != send_queue_.cursor.published()) {
        const SendRequest& request = send_queue_[head];
        // Reads answered out of the order of earlier sends wait: completions follow posting.
        // Behind a request that failed nothing succeeds, as NDK has it.
        if (request.progress == SendRequest::Progress::done && !request_failed_) {
            out = {false, head, Status::success, {}};
            return true;
        }
        if (is_over()) {
            out = {false, head, end_of(head), cause()};
            request_failed_ = true;
            return true;
        }
    }
    const std::uint32_t receive = receive_queue_.cursor.head_position();
    if (receive == receive_queue_.cursor.published()) return false;
    if (receive != next_receive()) {
        out = {true, receive, receive_queue_[receive].status, {}};
        return true;
    }
    if (!is_over()) return false;
    const Status status = receive_queue_[receive].status;
    out = {true, receive, is_failure(status) ? status : Status::cancelled, cause()};
    return true;
}

}  // namespace ndv::iwarp

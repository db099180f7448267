// SPDX-License-Identifier: Apache-2.0
// What begins and ends a step of a stream, what ends the stream from outside, and completions.
#include "iwarp/connection.hpp"

#include <utility>

namespace ndv::iwarp {

Connection::Connection(const ConnectionConfig& config, SendQueue& send_queue,
                       ReceiveQueue& receive_queue, RemoteMemory& memory, ReceiveSupply* supply)
    : Stream(send_queue, receive_queue),
      life_(config, sender_, receiver_),
      sender_(life_, send_queue, memory),
      receiver_(life_, sender_, send_queue, receive_queue, memory, supply) {}

void Connection::begin_step(Time now) {
    life_.set_now(now);
    if (life_.is_terminating() && now >= life_.terminate_deadline()) life_.go_over();
    receiver_.resume();
    sender_.take_pins_again();
}

void Connection::handle_end_of_stream() {
    if (!life_.is_open()) {
        life_.go_over();
        return;
    }
    life_.note_peer_closed();
    if (!receiver_.is_between_messages() || sender_.reads().count() > 0) {
        if (!sender_.reads().is_empty()) life_.blame(sender_.reads().front(), Status::io_timeout);
        life_.end({Cause::Source::local, error::kLlpClosed, 0});
        return;
    }
    life_.events().peer_closed = true;
    sender_.stop_waking();
    life_.check_drained();
}

void Connection::handle_link_error(int os_error) {
    if (life_.is_over()) return;
    if (life_.cause().source != Cause::Source::none) {
        life_.go_over();
        return;
    }
    // The oldest request that has begun is the one that the dead link failed.
    const std::uint32_t head = send_queue_.cursor.head_position();
    if (head != send_queue_.cursor.published()) life_.blame(head, Status::io_timeout);
    life_.end({Cause::Source::system, {}, os_error});
}

void Connection::retire(const StreamCompletion& completion) {
    if (completion.is_receive) {
        receiver_.note_retired(completion.position);
        receive_queue_.cursor.retire();
        return;
    }
    sender_.note_retired(completion.position);
    send_queue_.cursor.retire();
}

StreamEvents Connection::take_events() { return std::exchange(life_.events(), {}); }

std::optional<Time> Connection::poll_deadline() const {
    if (life_.is_terminating()) return life_.terminate_deadline();
    if (!life_.is_open()) return std::nullopt;
    if (receiver_.is_paused()) return receiver_.pause_deadline();
    return sender_.wake_at();
}

}  // namespace ndv::iwarp

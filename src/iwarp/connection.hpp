// SPDX-License-Identifier: Apache-2.0
// One RDMAP stream after its MPA start-up: DDP and RDMAP of RFC 5040, 5041 and 7306 over RFC 5044
// framing. Sans-IO: bytes, requests and the time go in; gather lists, placements, completions,
// events and a deadline come out. No socket, thread, clock or lock.
//
// One step, in this order:
//   begin_step(now)
//   poll_transmit() -> write -> handle_sent(), until it is empty or the link takes no more
//   poll_receive()  -> read  -> handle_received(), until it is empty or the link has no more
//   poll_transmit() once more: answers and Terminates
//   poll_completion() / retire() until none is left; take_events(); poll_deadline()
//   end_step(): no pointer into a peer-named region is kept beyond it
//
// What goes out is the Sender's, what comes in the Receiver's, and whether the stream is open the
// Life's, of which both know. The connection has all three, and says which requests have ended.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <optional>

#include "iwarp/life.hpp"
#include "iwarp/receiver.hpp"
#include "iwarp/remote_memory.hpp"
#include "iwarp/sender.hpp"
#include "iwarp/work_queue.hpp"

namespace ndv::iwarp {

struct StreamCompletion {
    bool is_receive = false;
    std::uint32_t position = 0;  // of the slot, which stays valid until retire()
    Status status = Status::success;
    Cause cause;  // of a failure
};

class Connection {
public:
    // With a supply, `receive_queue` is filled from there alone.
    Connection(const ConnectionConfig& config, SendQueue& send_queue, ReceiveQueue& receive_queue,
               RemoteMemory& memory, ReceiveSupply* supply = nullptr);
    ~Connection() { end_step(); }
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;

    // A step begins: resumes a paused receive, acts on deadlines, pins what is half sent.
    void begin_step(Time now);
    void end_step() { life_.let_pins_go(); }

    // Outputs.
    // Bytes to write next, as at most `max` pieces; frames are built until `budget` bytes wait.
    [[nodiscard]] std::size_t poll_transmit(iovec* out, std::size_t max, std::size_t budget) {
        return sender_.poll_transmit(out, max, budget);
    }
    // Where to read next; 0 pieces: do not read now. `max` is at least 2.
    [[nodiscard]] std::size_t poll_receive(iovec* out, std::size_t max, std::size_t budget) {
        return receiver_.poll_receive(out, max, budget);
    }
    [[nodiscard]] bool poll_completion(StreamCompletion& out);
    void retire(const StreamCompletion& completion);
    [[nodiscard]] StreamEvents take_events();
    [[nodiscard]] std::optional<Time> poll_deadline() const;
    [[nodiscard]] bool wants_read() const { return receiver_.wants_read(); }
    // Reading is paused for want of a receive, and one is there now.
    [[nodiscard]] bool can_resume() const { return receiver_.can_resume(); }
    // A message under way holds a receive of the supply: since when it has not gone on noticeably.
    [[nodiscard]] std::optional<Time> held_since() const { return receiver_.held_since(); }
    // Something could go out now, were the link ready.
    [[nodiscard]] bool wants_write() { return sender_.wants_write(); }
    // Bytes that the next posted request in line and everything before it would put on the wire.
    [[nodiscard]] bool has_large_backlog(std::size_t threshold) {
        return sender_.has_large_backlog(threshold);
    }

    // Inputs.
    void handle_sent(std::size_t size) { sender_.handle_sent(size); }
    void handle_received(std::size_t size, Time now) { receiver_.handle_received(size, now); }
    void handle_end_of_stream();           // FIN
    void handle_link_error(int os_error);  // RST, timeout, a fault on our memory (EFAULT)
    void handle_disconnect() { life_.disconnect(); }  // no new requests; `drained` follows
    void handle_flush() { life_.go_over(); }          // cancels everything, terminal
    // Ends the stream for the receive that it holds.
    void give_way() { life_.fail(error::kStreamCatastrophic); }
    // Responder: the initiator may stay silent for good.
    void release_hold() { sender_.release_hold(); }
    void set_max_fpdu(std::uint32_t bytes) { sender_.set_max_fpdu(bytes); }

    [[nodiscard]] const Cause& cause() const { return life_.cause(); }
    [[nodiscard]] bool is_over() const { return life_.is_over(); }
    [[nodiscard]] bool is_held() const { return sender_.is_held(); }
    [[nodiscard]] bool is_paused() const { return receiver_.is_paused(); }
    [[nodiscard]] const StreamCounters& counters() const { return life_.counters(); }

private:
    SendQueue& send_queue_;
    ReceiveQueue& receive_queue_;
    Life life_;
    Sender sender_;
    Receiver receiver_;
    bool request_failed_ = false;  // a request ended without success: none after it succeeds
};

}  // namespace ndv::iwarp

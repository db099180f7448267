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
#include "iwarp/stream.hpp"

namespace ndv::iwarp {

class Connection final : public Stream {
public:
    // With a supply, `receive_queue` is filled from there alone.
    Connection(const ConnectionConfig& config, SendQueue& send_queue, ReceiveQueue& receive_queue,
               RemoteMemory& memory, ReceiveSupply* supply = nullptr);
    ~Connection() override { life_.let_pins_go(); }

    // A step begins: resumes a paused receive, acts on deadlines, pins what is half sent.
    void begin_step(Time now) override;
    void end_step() override { life_.let_pins_go(); }

    // Outputs.
    // Bytes to write next, as at most `max` pieces; frames are built until `budget` bytes wait.
    [[nodiscard]] std::size_t poll_transmit(iovec* out, std::size_t max, std::size_t budget) {
        return sender_.poll_transmit(out, max, budget);
    }
    // Where to read next; 0 pieces: do not read now. `max` is at least 2.
    [[nodiscard]] std::size_t poll_receive(iovec* out, std::size_t max, std::size_t budget) {
        return receiver_.poll_receive(out, max, budget);
    }
    void retire(const StreamCompletion& completion) override;
    [[nodiscard]] StreamEvents take_events() override;
    [[nodiscard]] std::optional<Time> poll_deadline() const override;
    [[nodiscard]] bool wants_read() const override { return receiver_.wants_read(); }
    [[nodiscard]] bool can_resume() const override { return receiver_.can_resume(); }
    [[nodiscard]] std::optional<Time> held_since() const override { return receiver_.held_since(); }
    [[nodiscard]] bool wants_write() override { return sender_.wants_write(); }
    // Bytes that the next posted request in line and everything before it would put on the wire.
    [[nodiscard]] bool has_large_backlog(std::size_t threshold) {
        return sender_.has_large_backlog(threshold);
    }

    // Inputs.
    void handle_sent(std::size_t size) { sender_.handle_sent(size); }
    void handle_received(std::size_t size, Time now) { receiver_.handle_received(size, now); }
    void handle_end_of_stream() override;
    void handle_link_error(int os_error) override;
    void handle_disconnect() override { life_.disconnect(); }
    void handle_flush() override { life_.go_over(); }
    void give_way() override { life_.fail(error::kStreamCatastrophic); }
    void withhold_receives(bool is_withheld) override { receiver_.withhold_receives(is_withheld); }
    // Responder: the initiator may stay silent for good.
    void release_hold() { sender_.release_hold(); }
    void set_max_fpdu(std::uint32_t bytes) { sender_.set_max_fpdu(bytes); }

    [[nodiscard]] const Cause& cause() const override { return life_.cause(); }
    [[nodiscard]] bool is_over() const override { return life_.is_over(); }
    [[nodiscard]] bool is_held() const { return sender_.is_held(); }
    [[nodiscard]] bool is_paused() const override { return receiver_.is_paused(); }
    [[nodiscard]] const StreamCounters& counters() const override { return life_.counters(); }

private:
    [[nodiscard]] Status end_of(std::uint32_t position) const override {
        return life_.end_of(position);
    }
    [[nodiscard]] std::uint32_t next_receive() const override { return receiver_.next_receive(); }

    Life life_;
    Sender sender_;
    Receiver receiver_;
};

}  // namespace ndv::iwarp

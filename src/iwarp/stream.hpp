// SPDX-License-Identifier: Apache-2.0
// What a queue pair drives: the requests and receives of one stream, whatever carries them. They
// end here, in the order in which they were posted; everything else is the carrier's.
#pragma once

#include <cstdint>
#include <optional>

#include "iwarp/life.hpp"
#include "iwarp/work_queue.hpp"

namespace ndv::iwarp {

struct StreamCompletion {
    bool is_receive = false;
    std::uint32_t position = 0;  // of the slot, which stays valid until retire()
    Status status = Status::success;
    Cause cause;  // of a failure
};

class Stream {
public:
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    virtual ~Stream() = default;

    // A step begins: resumes a paused receive, acts on deadlines. What it holds of memory that
    // others may end is let go at its end.
    virtual void begin_step(Time now) = 0;
    virtual void end_step() = 0;

    // Outputs.
    [[nodiscard]] bool poll_completion(StreamCompletion& out);
    virtual void retire(const StreamCompletion& completion) = 0;
    [[nodiscard]] virtual StreamEvents take_events() = 0;
    [[nodiscard]] virtual std::optional<Time> poll_deadline() const = 0;
    [[nodiscard]] virtual bool wants_read() const = 0;
    // Something could go out now, were the carrier ready.
    [[nodiscard]] virtual bool wants_write() = 0;
    // Reading is paused for want of a receive.
    [[nodiscard]] virtual bool is_paused() const = 0;
    // ... and one is there now.
    [[nodiscard]] virtual bool can_resume() const = 0;
    // A message under way holds a receive of the supply: since when it has not gone on noticeably.
    [[nodiscard]] virtual std::optional<Time> held_since() const = 0;
    [[nodiscard]] virtual bool is_over() const = 0;
    [[nodiscard]] virtual const Cause& cause() const = 0;
    [[nodiscard]] virtual const StreamCounters& counters() const = 0;

    // Inputs.
    virtual void handle_end_of_stream() = 0;           // FIN
    virtual void handle_link_error(int os_error) = 0;  // RST, timeout, a fault on our memory
    virtual void handle_disconnect() = 0;              // no new requests; `drained` follows
    virtual void handle_flush() = 0;                   // cancels everything, terminal
    // Ends the stream for the receive that it holds.
    virtual void give_way() = 0;
    // A fault: true: what comes finds no receive, whatever is posted.
    virtual void withhold_receives(bool is_withheld) = 0;

protected:
    Stream(SendQueue& send_queue, ReceiveQueue& receive_queue)
        : send_queue_(send_queue), receive_queue_(receive_queue) {}

    // How the end of the stream ends the request at `position`.
    [[nodiscard]] virtual Status end_of(std::uint32_t position) const = 0;
    // The receive of the next message: those before it are done.
    [[nodiscard]] virtual std::uint32_t next_receive() const = 0;

    SendQueue& send_queue_;
    ReceiveQueue& receive_queue_;

private:
    bool request_failed_ = false;  // a request ended without success: none after it succeeds
};

}  // namespace ndv::iwarp

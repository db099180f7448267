// SPDX-License-Identifier: Apache-2.0
// The life of a stream: what was agreed, whether it is open, and why it is over. Both directions
// ask for it, and each may end it for the other.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/status.hpp"
#include "iwarp/ddp.hpp"
#include "iwarp/mpa.hpp"
#include "iwarp/terminate.hpp"

namespace ndv::iwarp {

class Receiver;
class Sender;

using Time = std::chrono::nanoseconds;  // since any fixed moment

struct ConnectionConfig {
    bool is_initiator = false;
    bool crc = false;
    RtrKind rtr = RtrKind::none;  // agreed at start-up
    std::uint16_t ird = 0;
    std::uint16_t ord = 0;
    std::uint32_t max_fpdu = 65480;  // bytes of one FPDU, CRC included; a multiple of four
    Time receive_wait = std::chrono::seconds(5);    // a Send without a posted receive
    Time terminate_wait = std::chrono::seconds(1);  // to get a Terminate out
    std::uint64_t seed = 0;                         // makes sink STags unpredictable
    // Initiator: sends empty Writes to a peer that says nothing, until its first FPDU. Kernel siw
    // looks at what came between its MPA reply and the socket's hand-over when more comes.
    bool wakes_peer = false;
};

// Why a stream ended.
struct Cause {
    enum class Source : std::uint8_t { none, local, peer, system };
    Source source = Source::none;  // local: we saw an error; peer: its Terminate; system: errno
    ErrorCode code;
    int os_error = 0;
};

struct StreamEvents {
    bool first_fpdu = false;   // responder: the initiator's first message came
    bool peer_closed = false;  // FIN at a clean boundary
    bool drained = false;      // after handle_disconnect(): everything is out and answered
    bool over = false;         // nothing more goes out or comes in; cause() says why
};

struct StreamCounters {
    std::uint64_t fpdus_in = 0;
    std::uint64_t fpdus_out = 0;
    std::uint64_t bytes_in = 0;
    std::uint64_t bytes_out = 0;
};

// The header of an FPDU that a Terminate refuses, and repeats.
struct Culprit {
    Control control;
    std::array<std::byte, UntaggedHeader::kSize + ReadRequestBody::kSize> bytes{};
    // Once the control octets are checked.
    [[nodiscard]] Opcode opcode() const { return static_cast<Opcode>(control.opcode); }
};

class Life {
public:
    // The Terminate goes behind the frames that are built, or takes their place.
    enum class BuiltFrames : bool { drop, send };

    Life(const ConnectionConfig& config, Sender& sender, Receiver& receiver)
        : config_(config), sender_(sender), receiver_(receiver) {}
    Life(const Life&) = delete;
    Life& operator=(const Life&) = delete;

    [[nodiscard]] const ConnectionConfig& config() const { return config_; }
    [[nodiscard]] Time now() const { return now_; }
    void set_now(Time now) { now_ = now; }
    [[nodiscard]] bool is_open() const { return state_ == State::open; }
    [[nodiscard]] bool is_terminating() const { return state_ == State::terminating; }
    [[nodiscard]] bool is_over() const { return state_ == State::over; }
    [[nodiscard]] bool peer_has_closed() const { return peer_has_closed_; }
    void note_peer_closed() { peer_has_closed_ = true; }
    [[nodiscard]] Time terminate_deadline() const { return terminate_deadline_; }
    [[nodiscard]] const Cause& cause() const { return cause_; }
    [[nodiscard]] StreamEvents& events() { return events_; }
    [[nodiscard]] StreamCounters& counters() { return counters_; }
    [[nodiscard]] const StreamCounters& counters() const { return counters_; }

    // An error that we saw: says so to the peer, then ends the stream. Requests stay pending until
    // the Terminate is out, because a half-sent frame still points into their memory.
    void fail(const ErrorCode& code, const Culprit* culprit = nullptr,
              BuiltFrames built = BuiltFrames::drop);
    void end(const Cause& cause);
    void go_over();
    void disconnect();
    // After the last request or answer may have gone.
    void check_drained();
    // The first request that is blamed is the one that failed; others are merely flushed.
    void blame(std::uint32_t position, Status status);
    // How the end of the stream ends the request at `position`.
    [[nodiscard]] Status end_of(std::uint32_t position) const {
        return blamed_ == position ? blamed_status_ : Status::cancelled;
    }
    // No pin is held until Sender::take_pins_again(): a thread that ends memory waits for pins, and
    // two steps that wait for each other's would wait for ever.
    void let_pins_go();

private:
    // open: all goes. terminating: a Terminate is on its way out, nothing else. over: flushing.
    enum class State : std::uint8_t { open, terminating, over };

    const ConnectionConfig config_;
    Sender& sender_;
    Receiver& receiver_;
    State state_ = State::open;
    bool is_disconnecting_ = false;
    bool peer_has_closed_ = false;
    Time terminate_deadline_{};
    Time now_{};
    Cause cause_;
    std::optional<std::uint32_t> blamed_;
    Status blamed_status_ = Status::cancelled;
    StreamEvents events_;
    StreamCounters counters_;
};

}  // namespace ndv::iwarp

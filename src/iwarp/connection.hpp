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
// connection.cpp holds life and death of a stream, receive.cpp what comes in, transmit.cpp what
// goes out, untagged.cpp the order of what comes in untagged, extensions.cpp atomics and immediate
// data in both directions, local.cpp requests that change this side's memory.
#pragma once

#include <sys/uio.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "iwarp/ddp.hpp"
#include "iwarp/mpa.hpp"
#include "iwarp/remote_memory.hpp"
#include "iwarp/terminate.hpp"
#include "iwarp/work_queue.hpp"

namespace ndv::iwarp {

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

struct StreamCompletion {
    bool is_receive = false;
    std::uint32_t position = 0;  // of the slot, which stays valid until retire()
    Status status = Status::success;
    Cause cause;  // of a failure
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

// What a Terminate says of a Read or Atomic Request that is refused: RFC 5040 section 7.1.
[[nodiscard]] ErrorCode read_error(AccessResult result);

class Connection {
public:
    // With a supply, `receive_queue` is filled from there and by nobody else.
    Connection(const ConnectionConfig& config, SendQueue& send_queue, ReceiveQueue& receive_queue,
               RemoteMemory& memory, ReceiveSupply* supply = nullptr);
    ~Connection();
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;

    // A step begins: resumes a paused receive, acts on deadlines, pins what is half sent.
    void begin_step(Time now);
    void end_step();

    // Outputs.
    // Bytes to write next, as at most `max` pieces; frames are built until `budget` bytes wait.
    [[nodiscard]] std::size_t poll_transmit(iovec* out, std::size_t max, std::size_t budget);
    // Where to read next; 0 pieces: do not read now. `max` is at least 2.
    [[nodiscard]] std::size_t poll_receive(iovec* out, std::size_t max, std::size_t budget);
    [[nodiscard]] bool poll_completion(StreamCompletion& out);
    void retire(const StreamCompletion& completion);
    [[nodiscard]] StreamEvents take_events();
    [[nodiscard]] std::optional<Time> poll_deadline() const;
    [[nodiscard]] bool wants_read() const;
    // Reading is paused for want of a receive, and one is there now.
    [[nodiscard]] bool can_resume() const;
    // A message under way holds a receive of the supply: since when it has not gone on noticeably.
    [[nodiscard]] std::optional<Time> held_since() const;
    // Something could go out now, were the link ready.
    [[nodiscard]] bool wants_write();
    // Bytes that the next posted request in line and everything before it would put on the wire.
    [[nodiscard]] bool has_large_backlog(std::size_t threshold);

    // Inputs.
    void handle_sent(std::size_t size);
    void handle_received(std::size_t size, Time now);
    void handle_end_of_stream();           // FIN
    void handle_link_error(int os_error);  // RST, timeout, a fault on our memory (EFAULT)
    void handle_disconnect();              // no new requests; `drained` follows
    void handle_flush();                   // cancels everything, terminal
    void give_way();                       // ends the stream for the receive that it holds
    void release_hold();                   // responder: the initiator may stay silent for good
    void set_max_fpdu(std::uint32_t bytes);

    [[nodiscard]] const Cause& cause() const { return cause_; }
    [[nodiscard]] bool is_over() const { return state_ == State::over; }
    [[nodiscard]] bool has_unsent_frame() const { return frame_head_ != frame_tail_; }
    [[nodiscard]] bool is_held() const { return is_held_; }
    [[nodiscard]] bool is_paused() const { return is_paused_; }
    [[nodiscard]] const StreamCounters& counters() const { return counters_; }

private:
    // open: all goes. terminating: a Terminate is on its way out, nothing else. over: flushing.
    enum class State : std::uint8_t { open, terminating, over };

    // ---- out -----------------------------------------------------------------------------
    enum class FrameSource : std::uint8_t { request, response, control };
    static constexpr std::size_t kFrameBytes = 288;   // header + kCopyLimit + pad + CRC, rounded
    static constexpr std::uint32_t kCopyLimit = 256;  // below, a copy is cheaper than a gather
    static constexpr std::uint32_t kFrameCount = 64;
    static constexpr std::size_t kSummedBytes = 4 * kMaxFpdu;

    struct Frame {
        std::array<std::byte, kFrameBytes> bytes;  // header; of a small frame all of it
        std::array<std::byte, 8> tail;             // pad and CRC of a large frame
        std::byte* head = nullptr;                 // `bytes`, or the whole frame in `summed_`
        std::uint32_t head_size = 0;
        std::uint32_t tail_size = 0;
        std::uint32_t payload_size = 0;    // gathered, not in `head`
        std::uint32_t payload_offset = 0;  // in the message
        std::uint32_t position = 0;        // request: send queue position; response: job
        FrameSource source = FrameSource::control;
        bool is_last = false;
        bool is_terminate = false;
        Pin pin;  // response with gathered payload
        [[nodiscard]] std::size_t size() const { return head_size + payload_size + tail_size; }
    };

    // A peer's Read or Atomic Request that waits for its response or is being answered.
    struct Job {
        std::uint32_t msn = 0;
        bool is_atomic = false;
        std::uint32_t built = 0;   // read: bytes put into frames
        ReadRequestBody body;      // read; else its size is 0
        AtomicRequestBody atomic;  // read: not set
    };

    [[nodiscard]] Frame& frame(std::uint32_t index) { return frames_[index % kFrameCount]; }
    [[nodiscard]] bool build_next_frame();
    void build_rtr();
    void build_empty_write();
    [[nodiscard]] bool must_wake_peer() const;
    void build_terminate();
    [[nodiscard]] bool can_start_request();
    void execute_local_request();
    void invalidate_read_sink(std::uint32_t position);
    void let_pins_go();
    void take_pins_again();
    void build_request_frame();
    void build_read(Frame& out);
    void build_write(Frame& out);
    void build_write_immediate(Frame& out);
    void build_send(Frame& out);
    void build_atomic_request(Frame& out);
    void build_nothing(Frame&) {}  // execute_local_request() took it
    void finish_request(Frame& out, std::size_t header, std::uint32_t payload);
    void begin_frame(Frame& out, FrameSource source, std::uint32_t position);
    [[nodiscard]] bool has_response() const;
    [[nodiscard]] bool build_response_frame();
    [[nodiscard]] bool build_atomic_response();
    [[nodiscard]] AccessResult run_atomic(const AtomicRequestBody& request, std::uint64_t& value,
                                          bool& is_aligned);
    void fail_read(const Job& job, std::uint32_t done, AccessResult result);
    void add_payload(Frame& out, std::size_t header, std::span<const PostedSegment> segments,
                     std::uint32_t offset, std::uint32_t size, const Pin* pin = nullptr);
    void finish_frame(Frame& out);
    [[nodiscard]] bool has_frame_room() const;
    void frame_sent(Frame& sent);
    void unpin(Frame& out);
    void drop_unsent_frames();
    [[nodiscard]] std::size_t gather(const Frame& from, std::size_t skip, iovec* out,
                                     std::size_t max);

    std::unique_ptr<Frame[]> frames_;
    // With CRC, large frames lie here as they were summed: memory may change until it is sent.
    // Filled from the front, and anew when all frames are out.
    std::unique_ptr<std::byte[]> summed_;
    std::size_t summed_end_ = 0;
    std::uint32_t frame_head_ = 0;  // oldest frame not fully sent
    std::uint32_t frame_tail_ = 0;
    std::size_t frame_sent_ = 0;   // bytes of the oldest frame taken by the link
    std::size_t frame_bytes_ = 0;  // in all frames, not yet taken
    bool message_open_ = false;    // the message below is half built
    FrameSource message_source_ = FrameSource::request;
    std::uint32_t message_offset_ = 0;
    std::uint32_t request_next_ = 0;  // send queue position of the next request to build
    bool immediate_is_next_ = false;  // of the message below: its Write is built
    bool extension_sent_ = false;     // something of RFC 7306, which the peer may not know
    std::uint32_t send_msn_ = 1;
    std::uint32_t read_msn_ = 1;        // and of Atomic Requests
    std::uint32_t atomic_msn_ = 1;      // of our Atomic Responses
    std::uint32_t gathered_reads_ = 0;  // response frames that still read from memory
    bool is_held_ = false;
    bool rtr_pending_ = false;
    std::uint32_t wakes_left_ = 0;
    Time wake_at_{};
    bool response_turn_ = false;  // alternate between own requests and responses
    bool terminate_pending_ = false;
    TerminateBody terminate_;

    // Own reads and atomics that wait for their response, oldest first: send queue positions.
    std::vector<std::uint32_t> reads_;
    std::uint32_t read_head_ = 0;
    std::uint32_t read_tail_ = 0;
    bool rtr_read_outstanding_ = false;
    std::uint32_t sink_counter_ = 0;
    [[nodiscard]] std::uint32_t outstanding_reads() const {
        return read_tail_ - read_head_ + (rtr_read_outstanding_ ? 1 : 0);
    }
    [[nodiscard]] std::uint32_t next_sink_stag();

    // ---- in ------------------------------------------------------------------------------
    enum class Phase : std::uint8_t { header, payload, trailer };
    struct Message {
        bool is_active = false;
        Opcode opcode = Opcode::write;
        std::uint32_t stag = 0;    // tagged
        std::uint64_t to = 0;      // tagged: where the next segment must continue
        std::uint32_t offset = 0;  // untagged: where the next segment must continue
        std::uint32_t invalidate_stag = 0;
    };

    void process();
    [[nodiscard]] bool begin_fpdu();
    [[nodiscard]] bool begin_write(std::span<const std::byte> bytes);
    [[nodiscard]] bool begin_read_response(std::span<const std::byte> bytes);
    [[nodiscard]] bool begin_send(std::span<const std::byte> bytes);
    [[nodiscard]] bool begin_read_request(std::span<const std::byte> bytes);
    [[nodiscard]] bool begin_terminate(std::span<const std::byte> bytes);
    [[nodiscard]] bool begin_immediate(std::span<const std::byte> bytes);
    [[nodiscard]] bool begin_atomic_request(std::span<const std::byte> bytes);
    [[nodiscard]] bool begin_atomic_response(std::span<const std::byte> bytes);
    [[nodiscard]] bool check_send_order(const UntaggedHeader& header);
    [[nodiscard]] ErrorCode check_request(const UntaggedHeader& header) const;
    [[nodiscard]] bool take_receive();
    [[nodiscard]] bool place_payload();
    void end_fpdu();
    void end_write();
    void end_read_response();
    void end_send();
    void end_request();
    void end_terminate() {}  // begin_terminate() ends the stream
    void end_immediate();
    void end_atomic_response();
    [[nodiscard]] std::size_t target(std::size_t size, iovec* out, std::size_t max);
    void advance_target(std::size_t size);
    void unpin_target();
    void make_room(std::size_t size);
    [[nodiscard]] bool has_receive();

    std::unique_ptr<std::byte[]> staging_;
    std::size_t staging_size_ = 0;
    std::size_t begin_ = 0;  // unparsed bytes are [begin_, end_)
    std::size_t end_ = 0;
    std::size_t direct_planned_ = 0;  // bytes of the last poll_receive() that bypass staging
    Phase phase_ = Phase::header;
    Control control_;  // of the FPDU in progress
    Opcode opcode_ = Opcode::write;
    std::array<std::byte, UntaggedHeader::kSize + ReadRequestBody::kSize> culprit_{};
    std::uint32_t payload_size_ = 0;  // of the FPDU in progress
    std::uint32_t payload_left_ = 0;
    Message tagged_;
    Message untagged_;
    Pin target_pin_;                 // Write: of the payload from here on
    std::uint64_t target_done_ = 0;  // bytes of it placed since it was pinned
    std::uint32_t empty_segments_ = 0;
    std::uint32_t expected_send_msn_ = 1;
    std::uint32_t expected_read_msn_ = 1;
    std::uint32_t expected_atomic_msn_ = 1;
    std::uint32_t write_bytes_ = 0;  // of the Write in progress, or the last one
    std::uint32_t written_ = 0;  // by the Write that ended since the last message, for immediates
    std::uint64_t atomic_value_ = 0;
    std::uint32_t receive_next_ = 0;  // receive queue position of the next message
    Time held_since_{};
    std::uint32_t held_offset_ = 0;  // of the message at that time
    bool any_fpdu_in_ = false;
    bool is_paused_ = false;  // a Send waits for a receive
    Time pause_deadline_{};
    std::vector<Job> jobs_;
    std::uint32_t job_head_ = 0;  // oldest not fully sent
    std::uint32_t job_next_ = 0;  // next to build
    std::uint32_t job_tail_ = 0;

    // ---- life ----------------------------------------------------------------------------
    // The Terminate goes behind the frames that are built, or takes their place.
    enum class BuiltFrames : bool { drop, send };
    void fail(const ErrorCode& code, bool with_header, BuiltFrames built = BuiltFrames::drop);
    void go_over();
    void blame_for_terminate(const TerminateBody& body);
    [[nodiscard]] bool blame_atomic(const TerminateBody& body);
    void blame_request(std::uint32_t position, Status status);
    void check_drained();

    const ConnectionConfig config_;
    SendQueue& send_queue_;
    ReceiveQueue& receive_queue_;
    RemoteMemory& memory_;
    ReceiveSupply* const supply_;
    std::uint32_t max_fpdu_;
    State state_ = State::open;
    bool is_disconnecting_ = false;
    bool peer_closed_ = false;
    Time terminate_deadline_{};
    Time now_{};
    Cause cause_;
    std::optional<std::uint32_t> blamed_;  // the request that failed, not merely flushed
    Status blamed_status_ = Status::cancelled;
    bool request_failed_ = false;  // a request ended without success: none after it succeeds
    StreamEvents events_;
    StreamCounters counters_;
};

}  // namespace ndv::iwarp

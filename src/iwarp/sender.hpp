// SPDX-License-Identifier: Apache-2.0
// What goes out of one stream: requests, answers and Terminates become FPDUs; a gather list of
// header, pointer into the region, and trailer for many FPDUs at once. sender.cpp has frames,
// messages.cpp what they carry, extensions.cpp the messages of RFC 7306, local.cpp requests that
// change this side's memory.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "iwarp/answers.hpp"
#include "iwarp/life.hpp"
#include "iwarp/remote_memory.hpp"
#include "iwarp/work_queue.hpp"

namespace ndv::iwarp {

// What a Terminate says of a Read or Atomic Request that is refused: RFC 5040 section 7.1.
[[nodiscard]] ErrorCode read_error(AccessResult result);

class Sender {
public:
    Sender(Life& life, SendQueue& send_queue, RemoteMemory& memory);
    Sender(const Sender&) = delete;
    Sender& operator=(const Sender&) = delete;

    // As Connection's.
    [[nodiscard]] std::size_t poll_transmit(iovec* out, std::size_t max, std::size_t budget);
    void handle_sent(std::size_t size);
    [[nodiscard]] bool wants_write();
    [[nodiscard]] bool has_large_backlog(std::size_t threshold);
    [[nodiscard]] bool is_held() const { return is_held_; }
    void release_hold() { is_held_ = false; }
    void set_max_fpdu(std::uint32_t bytes) { max_fpdu_ = bytes; }

    // From the connection. A flushed request may not have been built yet.
    void note_retired(std::uint32_t position) {
        if (position == request_next_) ++request_next_;
    }
    // The next empty Write to a peer that says nothing.
    [[nodiscard]] std::optional<Time> wake_at() const {
        return wakes_left_ > 0 ? std::optional(wake_at_) : std::nullopt;
    }
    void stop_waking() { wakes_left_ = 0; }
    [[nodiscard]] bool is_idle() const;
    // Pins of frames that are built.
    void let_pins_go();
    void take_pins_again();
    // A Terminate came: finds what it is about.
    void blame_for(const TerminateBody& body);

    // From the receiver.
    [[nodiscard]] OpenReads& reads() { return reads_; }
    [[nodiscard]] Jobs& jobs() { return jobs_; }
    [[nodiscard]] bool has_sent_extension() const { return extension_sent_; }
    // The oldest read has its data.
    void end_read();

    // From the life of the stream.
    void send_terminate(const TerminateBody& body, Life::BuiltFrames built);
    void drop_frames();

private:
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

    [[nodiscard]] Frame& frame(std::uint32_t index) { return frames_[index % kFrameCount]; }
    [[nodiscard]] bool build_next_frame();
    void build_rtr();
    void build_empty_write();
    [[nodiscard]] bool must_wake_peer() const;
    void build_terminate();
    [[nodiscard]] bool can_start_request();
    void execute_local_request();
    void invalidate_read_sink(std::uint32_t position);
    void build_request_frame();
    void build_read(Frame& out);
    void build_write(Frame& out);
    void build_write_immediate(Frame& out);
    void build_send(Frame& out);
    void build_atomic_request(Frame& out);
    void build_nothing(Frame&) {}  // execute_local_request() took it
    void finish_request(Frame& out, std::size_t header, std::uint32_t payload);
    Frame& begin_frame(FrameSource source, std::uint32_t position = 0);
    // The header of an untagged message of one FPDU, of `size` bytes with its body.
    static Control put_header(std::span<std::byte> to, Opcode opcode, std::uint32_t msn,
                              std::size_t size);
    // With the body that its opcode has; returns their size.
    template <typename Body>
    static std::size_t put_message(std::span<std::byte> to, Opcode opcode, std::uint32_t msn,
                                   const Body& body) {
        const std::size_t size = row_of(opcode).header_size;
        put_header(to, opcode, msn, size);
        body.emit(to.subspan<UntaggedHeader::kSize, Body::kSize>());
        return size;
    }
    [[nodiscard]] bool has_response();
    [[nodiscard]] bool build_response_frame();
    [[nodiscard]] bool build_atomic_response();
    [[nodiscard]] AccessResult run_atomic(const AtomicRequestBody& request, std::uint64_t& value,
                                          bool& is_aligned);
    void fail_read(const Job& job, std::uint32_t done, AccessResult result);
    void add_payload(Frame& out, std::size_t header, std::span<const PostedSegment> segments,
                     std::uint32_t offset, std::uint32_t size, const Pin* pin);
    // Payload is of a request's segments or of pinned memory.
    void finish_frame(Frame& out, std::size_t header, std::uint32_t size = 0,
                      std::span<const PostedSegment> segments = {}, std::uint32_t offset = 0,
                      const Pin* pin = nullptr);
    [[nodiscard]] bool has_frame_room() const;
    void note_frame_sent(Frame& sent);
    void unpin(Frame& out);
    void drop_unsent_frames();
    [[nodiscard]] std::size_t gather(const Frame& from, std::size_t skip, iovec* out,
                                     std::size_t max);
    [[nodiscard]] bool blame_atomic(const TerminateBody& body);
    [[nodiscard]] std::uint32_t next_sink_stag();

    Life& life_;
    SendQueue& send_queue_;
    RemoteMemory& memory_;
    std::uint32_t max_fpdu_;

    std::unique_ptr<Frame[]> frames_;
    // With CRC, large frames lie here as they were summed: memory may change until it is sent.
    // Filled from the front, and anew when all frames are out.
    std::unique_ptr<std::byte[]> summed_;
    std::size_t summed_end_ = 0;
    std::uint32_t frame_head_ = 0;  // oldest frame not fully sent
    std::uint32_t frame_tail_ = 0;
    std::size_t frame_sent_ = 0;   // bytes of the oldest frame taken by the link
    std::size_t frame_bytes_ = 0;  // in all frames, not yet taken

    bool message_open_ = false;  // the message below is half built
    FrameSource message_source_ = FrameSource::request;
    std::uint32_t message_offset_ = 0;
    std::uint32_t request_next_ = 0;  // send queue position of the next request to build
    bool immediate_is_next_ = false;  // of the message above: its Write is built
    bool extension_sent_ = false;     // something of RFC 7306, which the peer may not know
    std::uint32_t send_msn_ = 1;
    std::uint32_t read_msn_ = 1;        // and of Atomic Requests
    std::uint32_t atomic_msn_ = 1;      // of our Atomic Responses
    std::uint32_t gathered_reads_ = 0;  // response frames that still read from memory
    bool response_turn_ = false;        // alternate between own requests and responses
    std::uint32_t sink_counter_ = 0;
    OpenReads reads_;
    Jobs jobs_;

    bool is_held_ = false;
    bool rtr_pending_ = false;
    std::uint32_t wakes_left_ = 0;
    Time wake_at_{};
    bool terminate_pending_ = false;
    TerminateBody terminate_;
};

}  // namespace ndv::iwarp

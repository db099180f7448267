// SPDX-License-Identifier: Apache-2.0
// What comes in on one stream: FPDUs cut anywhere are parsed, checked and placed. receiver.cpp has
// FPDUs and what they carry, untagged.cpp the order of what comes in untagged, extensions.cpp the
// messages of RFC 7306.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "iwarp/life.hpp"
#include "iwarp/remote_memory.hpp"
#include "iwarp/sender.hpp"
#include "iwarp/work_queue.hpp"

namespace ndv::iwarp {

// What a Terminate says of a Write that is refused: RFC 5041 section 7.1.
[[nodiscard]] ErrorCode write_error(AccessResult result);

class Receiver {
public:
    // Answers to what comes in are the sender's to give, and answers to its requests come in here.
    Receiver(Life& life, Sender& sender, SendQueue& send_queue, ReceiveQueue& receive_queue,
             RemoteMemory& memory, ReceiveSupply* supply);
    Receiver(const Receiver&) = delete;
    Receiver& operator=(const Receiver&) = delete;

    // As Connection's.
    [[nodiscard]] std::size_t poll_receive(iovec* out, std::size_t max, std::size_t budget);
    void handle_received(std::size_t size, Time now);
    [[nodiscard]] bool wants_read() const;
    [[nodiscard]] bool is_paused() const { return is_paused_; }
    [[nodiscard]] bool can_resume() const;
    [[nodiscard]] std::optional<Time> held_since() const;

    void withhold_receives(bool is_withheld) { is_withheld_ = is_withheld; }

    // From the connection: a paused receive goes on, or was paused for too long.
    void resume();
    [[nodiscard]] Time pause_deadline() const { return pause_deadline_; }
    // Whether the stream may end here in order.
    [[nodiscard]] bool is_between_messages() const {
        return phase_ == Phase::header && begin_ == end_ && !tagged_.is_active &&
               !untagged_.is_active;
    }
    // The receive queue position of the next message.
    [[nodiscard]] std::uint32_t next_receive() const { return receive_next_; }
    // A flushed receive was not filled.
    void note_retired(std::uint32_t position) {
        if (position == receive_next_) ++receive_next_;
    }

    // From the life of the stream: what waited takes no receive any more.
    void stop() {
        is_paused_ = false;
        unpin_target();
    }
    void unpin_target();

private:
    enum class Phase : std::uint8_t { header, payload, trailer };
    struct Message {
        bool is_active = false;
        Opcode opcode = Opcode::write;
        std::uint32_t stag = 0;    // tagged
        std::uint64_t to = 0;      // tagged: where the next segment must continue
        std::uint32_t offset = 0;  // untagged: where the next segment must continue
        std::uint32_t invalidate_stag = 0;
        bool is_rtr = false;  // untagged: opens the stream, and takes no receive
    };

    void process();
    [[nodiscard]] std::size_t take_header();
    [[nodiscard]] bool begin_fpdu();
    // Ends the stream for the FPDU in progress; false, so that it is not taken.
    bool refuse(const ErrorCode& code) {
        life_.fail(code, &fpdu_);
        return false;
    }
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
    void make_room(std::size_t size);
    [[nodiscard]] bool has_receive();

    Life& life_;
    Sender& sender_;
    SendQueue& send_queue_;
    ReceiveQueue& receive_queue_;
    RemoteMemory& memory_;
    ReceiveSupply* const supply_;

    const std::size_t staging_size_;
    const std::unique_ptr<std::byte[]> staging_;
    std::size_t begin_ = 0;  // unparsed bytes are [begin_, end_)
    std::size_t end_ = 0;
    std::size_t direct_planned_ = 0;  // bytes of the last poll_receive() that bypass staging

    Phase phase_ = Phase::header;
    Culprit fpdu_;                    // in progress
    std::uint32_t payload_size_ = 0;  // of it
    std::uint32_t payload_left_ = 0;
    std::uint32_t empty_segments_ = 0;
    bool any_fpdu_in_ = false;
    Message tagged_;
    Message untagged_;
    Pin target_pin_;                 // Write: of the payload from here on
    std::uint64_t target_done_ = 0;  // bytes of it placed since it was pinned
    std::uint32_t write_bytes_ = 0;  // of the Write in progress, or the last one
    std::uint32_t written_ = 0;  // by the Write that ended since the last message, for immediates
    std::uint64_t atomic_value_ = 0;
    std::uint32_t expected_send_msn_ = 1;
    std::uint32_t expected_read_msn_ = 1;
    std::uint32_t expected_atomic_msn_ = 1;

    std::uint32_t receive_next_;  // receive queue position of the next message
    Time held_since_{};
    std::uint32_t held_offset_ = 0;  // of the message at that time
    bool is_paused_ = false;         // a Send waits for a receive
    bool is_withheld_ = false;       // ... whatever is posted
    Time pause_deadline_{};
};

}  // namespace ndv::iwarp

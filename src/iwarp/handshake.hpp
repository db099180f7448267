// SPDX-License-Identifier: Apache-2.0
// One MPA start-up, as initiator or as responder; sans-IO. RFC 5044 section 7, RFC 6581.
// It costs about 600 bytes, which is all that a stranger gets before a request is accepted.
//
// Drain in this order: poll_transmit()/handle_sent() until empty, then read exactly what
// poll_receive() names and call handle_received(), until outcome() is not `pending`.
// Nothing is ever read beyond a frame: what follows belongs to the connection.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "iwarp/mpa.hpp"
#include "iwarp/terminate.hpp"

namespace ndv::iwarp {

// What one side brings into the start-up.
struct HandshakeOffer {
    std::uint16_t ird = 16;  // inbound reads that we hold
    std::uint16_t ord = 16;  // outbound reads that we want
    bool crc = false;
    bool peer_to_peer = false;  // initiator: ask for RFC 6581's mode, offering Read and Write
    std::uint8_t revision = 2;  // initiator: 1 leaves read limits unnegotiated
    std::span<const std::byte> private_data;  // copied by the call it is given to
};

// What both sides agreed on.
struct Agreement {
    bool crc = false;
    RtrKind rtr = RtrKind::none;  // the initiator opens the stream with this
    std::uint16_t ird = 0;        // effective, for this side
    std::uint16_t ord = 0;
    std::uint8_t revision = 2;
    bool enhanced = false;
};

class Handshake {
public:
    enum class Outcome : std::uint8_t {
        pending,
        request_received,  // responder: accept() or reject() must follow
        agreed,            // both: agreement() holds (responder: once the reply is sent)
        refused,           // initiator: the peer said no; private_data() holds its reason
        rejected,          // responder: our reject is sent; close
        bad_frame,         // wrong key, length or enhanced data
        bad_revision,
        markers_refused,   // the peer insists on markers
        insufficient_ird,  // initiator: the peer wants more reads than we hold
        no_common_rtr,     // initiator: no way to open a peer-to-peer stream
    };

    [[nodiscard]] static Handshake initiator(const HandshakeOffer& offer);
    [[nodiscard]] static Handshake responder() { return Handshake{}; }

    // Outputs.
    [[nodiscard]] std::span<const std::byte> poll_transmit() const;
    [[nodiscard]] std::span<std::byte> poll_receive();
    [[nodiscard]] Outcome outcome() const { return outcome_; }
    [[nodiscard]] const Agreement& agreement() const { return agreement_; }
    // Initiator: a Terminate has told the peer why we end the attempt.
    [[nodiscard]] bool has_sent_terminate() const {
        return outcome_ == Outcome::insufficient_ird || outcome_ == Outcome::no_common_rtr;
    }
    // The peer's, until accept() or reject() overwrites it with ours.
    [[nodiscard]] std::span<const std::byte> private_data() const;
    // Responder, after request_received: the peer's read limits, or 0x3FFF.
    [[nodiscard]] std::uint16_t peer_ird() const { return peer_.ird; }
    [[nodiscard]] std::uint16_t peer_ord() const { return peer_.ord; }

    // Inputs.
    void handle_sent(std::size_t size);
    void handle_received(std::size_t size);
    // Responder, after request_received. False: the private data does not fit.
    [[nodiscard]] bool accept(const HandshakeOffer& offer);
    [[nodiscard]] bool reject(std::span<const std::byte> private_data);

private:
    enum class Phase : std::uint8_t { sending, receiving_header, receiving_data, waiting, over };

    Handshake() = default;
    void handle_header();
    void handle_request();
    void handle_reply();
    void end(Outcome outcome) {
        outcome_ = outcome;
        phase_ = Phase::over;
    }
    void fail_with_terminate(Outcome outcome, const ErrorCode& code);
    [[nodiscard]] bool emit(const MpaHeader& header, const MpaEnhanced* enhanced,
                            std::span<const std::byte> private_data);

    std::array<std::byte, kMpaMaxFrame> frame_{};
    std::uint16_t frame_size_ = MpaHeader::kSize;  // of the frame being sent or received
    std::uint16_t position_ = 0;                   // bytes of it done
    Phase phase_ = Phase::receiving_header;
    Outcome outcome_ = Outcome::pending;
    Outcome outcome_when_sent_ = Outcome::pending;
    bool is_initiator_ = false;
    MpaHeader header_;      // the peer's
    MpaEnhanced peer_;      // the peer's
    HandshakeOffer offer_;  // ours; its private data is in frame_
    Agreement agreement_;
};

}  // namespace ndv::iwarp

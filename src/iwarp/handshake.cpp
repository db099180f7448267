// SPDX-License-Identifier: Apache-2.0
// The MPA start-up rules of RFC 5044 section 7.1 and RFC 6581, with what kernel siw needs.
#include "iwarp/handshake.hpp"

#include <algorithm>
#include <cstring>

#include "base/bytes.hpp"
#include "base/crc32c.hpp"

namespace ndv::iwarp {
namespace {

constexpr std::uint8_t kHighestRevision = 2;

// RFC 6581 section 9.1; "do not negotiate" means our own limit.
std::uint16_t effective(std::uint16_t own, std::uint16_t peer) {
    return peer == MpaEnhanced::kNoNegotiation ? own : std::min(own, peer);
}

std::uint16_t answered(std::uint16_t own, std::uint16_t peer) {
    return peer == MpaEnhanced::kNoNegotiation ? peer : std::min(own, peer);
}

}  // namespace

Handshake Handshake::initiator(const HandshakeOffer& offer) {
    Handshake handshake;
    handshake.is_initiator_ = true;
    handshake.offer_ = offer;
    MpaHeader header;
    header.kind = MpaKind::request;
    header.crc = offer.crc;
    header.revision = offer.revision;
    header.enhanced = offer.revision >= 2;
    MpaEnhanced enhanced;
    enhanced.ird = offer.ird;
    enhanced.ord = offer.ord;
    enhanced.peer_to_peer = offer.peer_to_peer;
    enhanced.rtr_read = offer.peer_to_peer && offer.ord > 0;
    enhanced.rtr_write = offer.peer_to_peer;
    if (!handshake.emit(header, header.enhanced ? &enhanced : nullptr, offer.private_data)) {
        handshake.end(Outcome::bad_frame);  // the caller checks lengths before
    }
    return handshake;
}

std::span<const std::byte> Handshake::poll_transmit() const {
    if (phase_ != Phase::sending) return {};
    return std::span<const std::byte>(frame_).subspan(
        position_, static_cast<std::size_t>(frame_size_ - position_));
}

std::span<std::byte> Handshake::poll_receive() {
    if (phase_ != Phase::receiving_header && phase_ != Phase::receiving_data) return {};
    return std::span<std::byte>(frame_).subspan(position_,
                                                static_cast<std::size_t>(frame_size_ - position_));
}

std::span<const std::byte> Handshake::private_data() const {
    // A responder's frame holds its own reply once it has answered.
    const bool has_data =
        outcome_ == Outcome::request_received ||
        (is_initiator_ && (outcome_ == Outcome::agreed || outcome_ == Outcome::refused));
    if (!has_data || phase_ == Phase::sending) return {};
    std::size_t skip = MpaHeader::kSize;
    // siw rejects with S set and no data at all.
    if (header_.enhanced && header_.private_data_length >= MpaEnhanced::kSize) {
        skip += MpaEnhanced::kSize;
    }
    const std::size_t size = MpaHeader::kSize + header_.private_data_length;
    return std::span<const std::byte>(frame_).subspan(skip, size - skip);
}

void Handshake::handle_sent(std::size_t size) {
    position_ = static_cast<std::uint16_t>(position_ + size);
    if (position_ < frame_size_) return;
    if (outcome_when_sent_ != Outcome::pending) return end(outcome_when_sent_);
    position_ = 0;
    frame_size_ = MpaHeader::kSize;
    phase_ = Phase::receiving_header;
}

void Handshake::handle_received(std::size_t size) {
    position_ = static_cast<std::uint16_t>(position_ + size);
    const MpaKind expected = is_initiator_ ? MpaKind::reply : MpaKind::request;
    const auto received = std::span<const std::byte>(frame_).first(position_);
    // A stranger with another protocol is known by its first bytes: it may say no more than them.
    if (phase_ == Phase::receiving_header && !MpaHeader::may_begin(expected, received)) {
        return end(Outcome::bad_frame);
    }
    if (position_ < frame_size_) return;
    if (phase_ == Phase::receiving_header) {
        handle_header();
        if (phase_ != Phase::receiving_data || position_ < frame_size_) return;
    }
    if (is_initiator_) {
        handle_reply();
    } else {
        handle_request();
    }
}

void Handshake::handle_header() {
    const auto bytes = std::span<const std::byte>(frame_).first<MpaHeader::kSize>();
    const MpaParse parsed = MpaHeader::parse(bytes, header_);
    // Revisions 0 and 1 have no S; a bit there means nothing.
    if (header_.revision < 2) header_.enhanced = false;
    const MpaKind expected = is_initiator_ ? MpaKind::reply : MpaKind::request;
    const bool is_short =
        header_.enhanced && !header_.reject && header_.private_data_length < MpaEnhanced::kSize;
    if (parsed != MpaParse::ok || header_.kind != expected || is_short) {
        return end(Outcome::bad_frame);
    }
    if (header_.revision > (is_initiator_ ? offer_.revision : kHighestRevision)) {
        return end(Outcome::bad_revision);
    }
    frame_size_ = static_cast<std::uint16_t>(MpaHeader::kSize + header_.private_data_length);
    phase_ = Phase::receiving_data;
}

void Handshake::handle_request() {
    if (header_.enhanced && header_.private_data_length < MpaEnhanced::kSize) {
        end(Outcome::bad_frame);  // R in a request hid the short frame from handle_header()
        return;
    }
    peer_ = MpaEnhanced{};
    peer_.ird = peer_.ord = MpaEnhanced::kNoNegotiation;
    if (header_.enhanced) {
        peer_ = MpaEnhanced::parse(
            std::span<const std::byte>(frame_).subspan<MpaHeader::kSize, MpaEnhanced::kSize>());
    }
    phase_ = Phase::waiting;
    if (header_.markers) {
        static_cast<void>(reject({}));
        outcome_when_sent_ = Outcome::markers_refused;
        return;
    }
    outcome_ = Outcome::request_received;
}

void Handshake::handle_reply() {
    if (header_.reject) return end(Outcome::refused);
    if (header_.markers) return end(Outcome::markers_refused);
    if (offer_.revision >= 2 && (header_.revision < 2 || !header_.enhanced)) {
        return end(Outcome::bad_revision);  // RFC 6581 section 6: the answer to S carries S
    }
    agreement_ = {offer_.crc || header_.crc,
                  RtrKind::none,
                  offer_.ird,
                  offer_.ord,
                  header_.revision,
                  header_.enhanced && header_.revision >= 2};
    if (agreement_.enhanced) {
        peer_ = MpaEnhanced::parse(
            std::span<const std::byte>(frame_).subspan<MpaHeader::kSize, MpaEnhanced::kSize>());
        if (peer_.ord != MpaEnhanced::kNoNegotiation && peer_.ord > offer_.ird) {
            return fail_with_terminate(Outcome::insufficient_ird, error::kLlpInsufficientIrd);
        }
        agreement_.ird = effective(offer_.ird, peer_.ord);
        agreement_.ord = effective(offer_.ord, peer_.ird);
        if (offer_.peer_to_peer && peer_.peer_to_peer) {
            if (peer_.rtr_read && agreement_.ord > 0) {
                agreement_.rtr = RtrKind::read;
            } else if (peer_.rtr_write) {
                agreement_.rtr = RtrKind::write;
            } else {
                return fail_with_terminate(Outcome::no_common_rtr, error::kLlpNoRtr);
            }
        }
    }
    end(Outcome::agreed);
}

// The stream is open as far as MPA goes, so the reason travels as a Terminate (RFC 6581 section 8).
void Handshake::fail_with_terminate(Outcome outcome, const ErrorCode& code) {
    TerminateBody body;
    body.error = code;
    const std::size_t size = body.emit(
        std::span<std::byte>(frame_).subspan<UntaggedHeader::kSize, TerminateBody::kMaxSize>());
    UntaggedHeader header;
    header.control = control_of(Opcode::terminate, UntaggedHeader::kSize + size, 0, true);
    header.queue_number = kQueueTerminate;
    header.msn = 1;
    header.emit(std::span<std::byte>(frame_).first<UntaggedHeader::kSize>());
    const std::size_t covered = UntaggedHeader::kSize + size;  // a multiple of four: no pad
    base::store_le32(frame_.data() + covered,
                     agreement_.crc ? base::crc32c(0, frame_.data(), covered) : 0);
    frame_size_ = static_cast<std::uint16_t>(UntaggedHeader::kSize + size + kCrcSize);
    position_ = 0;
    phase_ = Phase::sending;
    outcome_when_sent_ = outcome;
}

bool Handshake::accept(const HandshakeOffer& offer) {
    MpaHeader header;
    header.kind = MpaKind::reply;
    header.crc = offer.crc || header_.crc;
    header.revision = header_.revision;
    header.enhanced = header_.enhanced;
    agreement_ = {header.crc, RtrKind::none,    offer.ird,
                  offer.ord,  header_.revision, header_.enhanced};
    MpaEnhanced enhanced;
    if (header_.enhanced) {
        enhanced.ird = answered(offer.ird, peer_.ord);
        enhanced.ord = answered(offer.ord, peer_.ird);
        agreement_.ird = effective(offer.ird, peer_.ord);
        agreement_.ord = effective(offer.ord, peer_.ird);
        if (peer_.peer_to_peer) {
            // Exactly one kind is named: iw_cxgb4 insists on it. Nothing offered: propose Write.
            enhanced.peer_to_peer = true;
            // A Read needs a slot, which a consumer that serves none would not want to show.
            if (peer_.rtr_read && (agreement_.ird > 0 || !peer_.rtr_write)) {
                agreement_.rtr = RtrKind::read;
                enhanced.rtr_read = true;
                if (agreement_.ird == 0) agreement_.ird = enhanced.ird = 1;
            } else if (peer_.rtr_write || !peer_.rtr_send) {
                agreement_.rtr = RtrKind::write;
                enhanced.rtr_write = true;
            } else {
                agreement_.rtr = RtrKind::send;
                enhanced.rtr_send = true;
            }
        }
    }
    if (!emit(header, header.enhanced ? &enhanced : nullptr, offer.private_data)) return false;
    outcome_ = Outcome::pending;
    outcome_when_sent_ = Outcome::agreed;
    return true;
}

bool Handshake::reject(std::span<const std::byte> private_data) {
    MpaHeader header;
    header.kind = MpaKind::reply;
    header.reject = true;
    header.revision = header_.revision;
    header.enhanced = header_.enhanced;
    const MpaEnhanced enhanced;
    if (!emit(header, header.enhanced ? &enhanced : nullptr, private_data)) return false;
    outcome_ = Outcome::pending;
    outcome_when_sent_ = Outcome::rejected;
    return true;
}

bool Handshake::emit(const MpaHeader& header, const MpaEnhanced* enhanced,
                     std::span<const std::byte> private_data) {
    const std::size_t length = private_data.size() + (enhanced != nullptr ? MpaEnhanced::kSize : 0);
    if (length > kMpaMaxPrivateData) return false;
    MpaHeader out = header;
    out.private_data_length = static_cast<std::uint16_t>(length);
    const std::span<std::byte> frame(frame_);
    out.emit(frame.first<MpaHeader::kSize>());
    std::size_t at = MpaHeader::kSize;
    if (enhanced != nullptr) {
        enhanced->emit(frame.subspan<MpaHeader::kSize, MpaEnhanced::kSize>());
        at += MpaEnhanced::kSize;
    }
    if (!private_data.empty()) {
        std::memcpy(frame_.data() + at, private_data.data(), private_data.size());
    }
    frame_size_ = static_cast<std::uint16_t>(at + private_data.size());
    position_ = 0;
    phase_ = Phase::sending;
    return true;
}

}  // namespace ndv::iwarp

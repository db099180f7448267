// SPDX-License-Identifier: Apache-2.0
// libFuzzer target: the MPA start-up of both roles fed with anything, in any cuts. It ends in an
// outcome, never wants more than a frame, and agrees on limits that are its own at most.
//
// Input: settings (role, offer, read size), then the peer's bytes.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "iwarp/handshake.hpp"

namespace {

using ndv::iwarp::Handshake;
using ndv::iwarp::HandshakeOffer;
using ndv::iwarp::kMpaMaxFrame;

void require(bool is_true, const char* sentence) {
    if (is_true) return;
    std::fprintf(stderr, "broken promise: %s\n", sentence);
    std::abort();
}

void drain(Handshake& handshake, std::size_t piece) {
    std::size_t total = 0;
    while (!handshake.poll_transmit().empty()) {
        const std::size_t size = std::min(piece, handshake.poll_transmit().size());
        handshake.handle_sent(size);
        total += size;
        require(total <= kMpaMaxFrame, "one frame goes out");
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 2) return 0;
    const std::uint8_t settings = data[0];
    const std::size_t piece = 1U + data[1];
    auto rest = std::as_bytes(std::span(data, size)).subspan(2);
    const std::array<std::byte, 40> own_data{};

    HandshakeOffer offer;
    offer.ird = (settings & 0x02U) != 0 ? 16 : 0;
    offer.ord = (settings & 0x04U) != 0 ? 16 : 0;
    offer.crc = (settings & 0x08U) != 0;
    offer.peer_to_peer = (settings & 0x10U) != 0;
    offer.revision = (settings & 0x20U) != 0 ? 1 : 2;
    offer.private_data = own_data;
    const bool is_initiator = (settings & 0x01U) != 0;
    Handshake handshake = is_initiator ? Handshake::initiator(offer) : Handshake::responder();
    drain(handshake, piece);

    std::size_t taken = 0;
    while (!rest.empty()) {
        const auto room = handshake.poll_receive();
        if (room.empty()) break;
        const std::size_t part = std::min({room.size(), rest.size(), piece});
        std::memcpy(room.data(), rest.data(), part);
        handshake.handle_received(part);
        rest = rest.subspan(part);
        taken += part;
        require(taken <= kMpaMaxFrame, "nothing beyond a frame is read");
    }
    // Reads all of it.
    unsigned sum = 0;
    for (const std::byte byte : handshake.private_data()) sum += static_cast<unsigned>(byte);
    require(handshake.private_data().size() <= 512 || sum > 0, "private data has a limit");
    if (handshake.outcome() == Handshake::Outcome::request_received) {
        require(!is_initiator, "only a responder gets requests");
        const bool is_answered = (settings & 0x40U) != 0 ? handshake.accept(offer)
                                                         : handshake.reject(offer.private_data);
        require(is_answered, "small private data fits");
    }
    drain(handshake, piece);
    require(handshake.poll_receive().empty() || handshake.outcome() == Handshake::Outcome::pending,
            "an outcome ends the reading");
    if (handshake.outcome() == Handshake::Outcome::agreed) {
        const auto& agreed = handshake.agreement();
        const bool opens_with_read = agreed.rtr == ndv::iwarp::RtrKind::read;
        require(agreed.ird <= std::max<unsigned>(offer.ird, opens_with_read ? 1 : 0),
                "no more inbound reads than ours");
        require(agreed.ord <= offer.ord, "no more outbound reads than ours");
        require(agreed.crc || !offer.crc, "CRC is on when we ask for it");
        require(!is_initiator || offer.peer_to_peer || agreed.rtr == ndv::iwarp::RtrKind::none,
                "an initiator opens only as it asked for");
    }
    return 0;
}

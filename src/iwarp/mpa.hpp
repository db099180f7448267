// SPDX-License-Identifier: Apache-2.0
// MPA start-up frames: RFC 5044 section 7.1 and the enhanced data of RFC 6581 section 9. Values
// only; who sends what when is handshake.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace ndv::iwarp {

enum class MpaKind : std::uint8_t { request, reply };

// What opens a peer-to-peer stream (RFC 6581 section 9.2): a zero-length message of this kind.
enum class RtrKind : std::uint8_t { none, send, write, read };

enum class MpaParse : std::uint8_t { ok, bad_key, bad_length };

inline constexpr std::size_t kMpaMaxPrivateData = 512;  // RFC 5044 section 7.1

// The fixed part of a request or reply.
struct MpaHeader {
    static constexpr std::size_t kSize = 20;

    MpaKind kind = MpaKind::request;
    bool markers = false;   // M: put markers into what you send to me
    bool crc = false;       // C
    bool reject = false;    // R, replies only
    bool enhanced = false;  // S: four bytes of MpaEnhanced come first in the private data
    std::uint8_t revision = 0;
    std::uint16_t private_data_length = 0;  // PD_Length, enhanced data included

    [[nodiscard]] static MpaParse parse(std::span<const std::byte, kSize> bytes, MpaHeader& out);
    // Whether the first bytes of a frame, however few, are those of this kind.
    [[nodiscard]] static bool may_begin(MpaKind kind, std::span<const std::byte> bytes);
    void emit(std::span<std::byte, kSize> bytes) const;
    friend bool operator==(const MpaHeader&, const MpaHeader&) = default;
};

// RFC 6581 section 9: read limits and ready-to-receive kinds.
struct MpaEnhanced {
    static constexpr std::size_t kSize = 4;
    static constexpr std::uint16_t kNoNegotiation = 0x3FFF;  // also the largest value

    bool peer_to_peer = false;  // A
    bool rtr_send = false;      // B
    bool rtr_write = false;     // C
    bool rtr_read = false;      // D
    std::uint16_t ird = 0;      // inbound reads that the sender of the frame holds
    std::uint16_t ord = 0;      // outbound reads that it wants

    [[nodiscard]] static MpaEnhanced parse(std::span<const std::byte, kSize> bytes);
    void emit(std::span<std::byte, kSize> bytes) const;
    friend bool operator==(const MpaEnhanced&, const MpaEnhanced&) = default;
};

inline constexpr std::size_t kMpaMaxFrame = MpaHeader::kSize + kMpaMaxPrivateData;

}  // namespace ndv::iwarp

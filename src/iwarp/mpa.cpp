// SPDX-License-Identifier: Apache-2.0
// Bytes of the MPA start-up frames.
#include "iwarp/mpa.hpp"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "base/bytes.hpp"

namespace ndv::iwarp {
namespace {

constexpr std::string_view kRequestKey = "MPA ID Req Frame";
constexpr std::string_view kReplyKey = "MPA ID Rep Frame";
constexpr std::size_t kKeySize = 16;
constexpr unsigned kMarkers = 0x80;
constexpr unsigned kCrc = 0x40;
constexpr unsigned kReject = 0x20;
constexpr unsigned kEnhanced = 0x10;

}  // namespace

MpaParse MpaHeader::parse(std::span<const std::byte, kSize> bytes, MpaHeader& out) {
    if (std::memcmp(bytes.data(), kRequestKey.data(), kKeySize) == 0) {
        out.kind = MpaKind::request;
    } else if (std::memcmp(bytes.data(), kReplyKey.data(), kKeySize) == 0) {
        out.kind = MpaKind::reply;
    } else {
        return MpaParse::bad_key;
    }
    const auto flags = std::to_integer<unsigned>(bytes[16]);
    out.markers = (flags & kMarkers) != 0;
    out.crc = (flags & kCrc) != 0;
    out.reject = (flags & kReject) != 0;
    out.enhanced = (flags & kEnhanced) != 0;
    out.revision = std::to_integer<std::uint8_t>(bytes[17]);
    out.private_data_length = base::load_be<std::uint16_t>(bytes.data() + 18);
    return out.private_data_length > kMpaMaxPrivateData ? MpaParse::bad_length : MpaParse::ok;
}

bool MpaHeader::may_begin(MpaKind kind, std::span<const std::byte> bytes) {
    const std::string_view key = kind == MpaKind::request ? kRequestKey : kReplyKey;
    return std::memcmp(bytes.data(), key.data(), std::min(bytes.size(), kKeySize)) == 0;
}

void MpaHeader::emit(std::span<std::byte, kSize> bytes) const {
    const std::string_view key = kind == MpaKind::request ? kRequestKey : kReplyKey;
    std::memcpy(bytes.data(), key.data(), kKeySize);
    const unsigned flags = (markers ? kMarkers : 0U) | (crc ? kCrc : 0U) | (reject ? kReject : 0U) |
                           (enhanced ? kEnhanced : 0U);
    bytes[16] = static_cast<std::byte>(flags);
    bytes[17] = static_cast<std::byte>(revision);
    base::store_be(bytes.data() + 18, private_data_length);
}

MpaEnhanced MpaEnhanced::parse(std::span<const std::byte, kSize> bytes) {
    const unsigned first = base::load_be<std::uint16_t>(bytes.data());
    const unsigned second = base::load_be<std::uint16_t>(bytes.data() + 2);
    MpaEnhanced out;
    out.peer_to_peer = (first & 0x8000U) != 0;
    out.rtr_send = (first & 0x4000U) != 0;
    out.ird = static_cast<std::uint16_t>(first & 0x3FFFU);
    out.rtr_write = (second & 0x8000U) != 0;
    out.rtr_read = (second & 0x4000U) != 0;
    out.ord = static_cast<std::uint16_t>(second & 0x3FFFU);
    return out;
}

void MpaEnhanced::emit(std::span<std::byte, kSize> bytes) const {
    const unsigned first =
        (peer_to_peer ? 0x8000U : 0U) | (rtr_send ? 0x4000U : 0U) | (ird & 0x3FFFU);
    const unsigned second =
        (rtr_write ? 0x8000U : 0U) | (rtr_read ? 0x4000U : 0U) | (ord & 0x3FFFU);
    base::store_be(bytes.data(), static_cast<std::uint16_t>(first));
    base::store_be(bytes.data() + 2, static_cast<std::uint16_t>(second));
}

}  // namespace ndv::iwarp

// SPDX-License-Identifier: Apache-2.0
// Bytes of the Terminate message in both control word orders.
#include "iwarp/terminate.hpp"

#include <cstring>

#include "base/bytes.hpp"

namespace ndv::iwarp {
namespace {

// Third control byte, RFC 5040 figure 9; siw's compiler lays the same bits out from the low end.
constexpr unsigned kM = 0x80, kD = 0x40, kR = 0x20;
constexpr unsigned kSwappedM = 0x01, kSwappedD = 0x02, kSwappedR = 0x04;

constexpr std::uint8_t kTaggedHeaderSize = TaggedHeader::kSize - kLengthSize;
constexpr std::uint8_t kUntaggedHeaderSize = UntaggedHeader::kSize - kLengthSize;

// A control word without header bits: which order is it? Only RFC order can say "layer 2" in the
// high nibble and mean MPA; siw's 0x20 is RDMAP's "remote operation".
bool is_swapped(unsigned first, unsigned code, unsigned flags, bool before_first_fpdu) {
    if ((flags & (kM | kD | kR)) != 0) return false;
    if ((flags & (kSwappedM | kSwappedD | kSwappedR)) != 0) return true;
    // siw's DDP error of an untagged buffer: in RFC order MPA, which has error type 0 alone.
    if (first == 0x21) return true;
    // MPA in siw's order has codes 1..7, RDMAP's remote operation in RFC order 5..9 and 0xff.
    if (first == 0x02) return code <= 0x04 || (code <= 0x07 && before_first_fpdu);
    if (first == 0x20) {
        // LLP in RFC order has codes 1..7, RDMAP's remote operation in siw's order 5..9. siw
        // sends 5 and 6 (version, opcode) without headers; MPA's 5 to 7 belong to start-up.
        if (code >= 0x08) return true;
        return (code == 0x05 || code == 0x06) && !before_first_fpdu;
    }
    return false;
}

}  // namespace

bool TerminateBody::parse(std::span<const std::byte> bytes, bool before_first_fpdu,
                          TerminateBody& out) {
    if (bytes.size() < kMinSize) return false;
    const auto first = std::to_integer<unsigned>(bytes[0]);
    const auto code = std::to_integer<unsigned>(bytes[1]);
    const auto flags = std::to_integer<unsigned>(bytes[2]);
    out = TerminateBody{};
    out.swapped = is_swapped(first, code, flags, before_first_fpdu);
    const unsigned high = first >> 4U;
    const unsigned low = first & 0x0FU;
    out.error = {static_cast<std::uint8_t>(out.swapped ? low : high),
                 static_cast<std::uint8_t>(out.swapped ? high : low),
                 static_cast<std::uint8_t>(code)};
    const bool has_m = (flags & (out.swapped ? kSwappedM : kM)) != 0;
    const bool has_d = (flags & (out.swapped ? kSwappedD : kD)) != 0;
    const bool has_r = (flags & (out.swapped ? kSwappedR : kR)) != 0;

    std::size_t at = kMinSize;
    const auto remaining = [&] { return bytes.size() - at; };
    if (has_m || has_d) {
        if (remaining() < 2) return false;
        out.has_segment_length = has_m;
        out.segment_length = base::load_be<std::uint16_t>(bytes.data() + at);
        at += 2;
    }
    if (has_d) {
        if (remaining() == 0) return false;
        const bool tagged = (std::to_integer<unsigned>(bytes[at]) & 0x80U) != 0;
        out.ddp_header_size = tagged ? kTaggedHeaderSize : kUntaggedHeaderSize;
        if (remaining() < out.ddp_header_size) return false;
        std::memcpy(out.ddp_header.data(), bytes.data() + at, out.ddp_header_size);
        at += out.ddp_header_size;
    }
    // siw sets R for a Send too, and then sends no RDMAP header.
    if (has_r && remaining() >= ReadRequestBody::kSize) {
        out.has_read_request = true;
        std::memcpy(out.read_request.data(), bytes.data() + at, ReadRequestBody::kSize);
    } else if (has_r && !out.swapped) {
        return false;
    }
    return true;
}

std::size_t TerminateBody::emit(std::span<std::byte, kMaxSize> bytes) const {
    const unsigned high = swapped ? error.error_type : error.layer;
    const unsigned low = swapped ? error.layer : error.error_type;
    const bool has_d = ddp_header_size != 0;
    const unsigned flags = (has_segment_length ? (swapped ? kSwappedM : kM) : 0U) |
                           (has_d ? (swapped ? kSwappedD : kD) : 0U) |
                           (has_read_request ? (swapped ? kSwappedR : kR) : 0U);
    bytes[0] = static_cast<std::byte>((high << 4U) | (low & 0x0FU));
    bytes[1] = static_cast<std::byte>(error.code);
    bytes[2] = static_cast<std::byte>(flags);
    bytes[3] = std::byte{0};
    std::size_t at = kMinSize;
    if (has_segment_length || has_d) {
        base::store_be(bytes.data() + at, segment_length);
        at += 2;
    }
    std::memcpy(bytes.data() + at, ddp_header.data(), ddp_header_size);
    at += ddp_header_size;
    if (has_read_request) {
        std::memcpy(bytes.data() + at, read_request.data(), read_request.size());
        at += read_request.size();
    }
    return at;
}

}  // namespace ndv::iwarp

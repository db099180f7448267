// SPDX-License-Identifier: Apache-2.0
// The Terminate message (RFC 5040 section 4.8): error codes of RFC 5040, 5041, 5044 and 6581, the
// wire form, and the other nibble order that kernel siw uses.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "iwarp/ddp.hpp"

namespace ndv::iwarp {

enum class Layer : std::uint8_t { rdmap = 0, ddp = 1, llp = 2 };

// Layer, error type and code of one entry of the tables.
struct ErrorCode {
    std::uint8_t layer = 0;
    std::uint8_t error_type = 0;
    std::uint8_t code = 0;
    friend constexpr bool operator==(const ErrorCode&, const ErrorCode&) = default;
};

namespace error {
// No entry of the tables: what checks return when all is well.
inline constexpr ErrorCode kNone{0xFF, 0xFF, 0xFF};
// RDMAP, RFC 5040 section 4.8.
inline constexpr ErrorCode kLocalCatastrophic{0, 0, 0x00};
inline constexpr ErrorCode kReadInvalidStag{0, 1, 0x00};
inline constexpr ErrorCode kReadBounds{0, 1, 0x01};
inline constexpr ErrorCode kReadAccess{0, 1, 0x02};
inline constexpr ErrorCode kReadNotAssociated{0, 1, 0x03};
inline constexpr ErrorCode kReadWrap{0, 1, 0x04};
inline constexpr ErrorCode kProtectionCannotInvalidate{0, 1, 0x09};
inline constexpr ErrorCode kRdmapVersion{0, 2, 0x05};
inline constexpr ErrorCode kUnexpectedOpcode{0, 2, 0x06};
inline constexpr ErrorCode kStreamCatastrophic{0, 2, 0x07};
inline constexpr ErrorCode kCannotInvalidate{0, 2, 0x09};
// DDP, RFC 5041 section 7.2.
inline constexpr ErrorCode kTaggedInvalidStag{1, 1, 0x00};
inline constexpr ErrorCode kTaggedBounds{1, 1, 0x01};
inline constexpr ErrorCode kTaggedNotAssociated{1, 1, 0x02};
inline constexpr ErrorCode kTaggedWrap{1, 1, 0x03};
inline constexpr ErrorCode kTaggedVersion{1, 1, 0x04};
inline constexpr ErrorCode kUntaggedQueue{1, 2, 0x01};
inline constexpr ErrorCode kUntaggedNoBuffer{1, 2, 0x02};
inline constexpr ErrorCode kUntaggedMsn{1, 2, 0x03};
inline constexpr ErrorCode kUntaggedMo{1, 2, 0x04};
inline constexpr ErrorCode kUntaggedTooLong{1, 2, 0x05};
inline constexpr ErrorCode kUntaggedVersion{1, 2, 0x06};
// MPA, RFC 5044 section 8 and RFC 6581 section 8.
inline constexpr ErrorCode kLlpClosed{2, 0, 0x01};
inline constexpr ErrorCode kLlpCrc{2, 0, 0x02};
inline constexpr ErrorCode kLlpLength{2, 0, 0x03};
inline constexpr ErrorCode kLlpInsufficientIrd{2, 0, 0x06};
inline constexpr ErrorCode kLlpNoRtr{2, 0, 0x07};
}  // namespace error

// The payload of a Terminate: what follows its UntaggedHeader.
struct TerminateBody {
    static constexpr std::size_t kMinSize = 4;
    // Control, DDP segment length, untagged DDP header without the MPA length, Read Request body.
    static constexpr std::size_t kMaxSize = 4 + 2 + 18 + ReadRequestBody::kSize;

    ErrorCode error;
    bool has_segment_length = false;         // M
    std::uint16_t segment_length = 0;        // DDP Segment Length of the culprit
    std::uint8_t ddp_header_size = 0;        // D: 0, 14 (tagged) or 18 (untagged)
    std::array<std::byte, 18> ddp_header{};  // from the DDP control byte on
    bool has_read_request = false;           // R
    std::array<std::byte, ReadRequestBody::kSize> read_request{};
    bool swapped = false;  // the order in which siw writes the control word

    // False: shorter than its own flags say. Both nibble orders are understood; where the control
    // word alone does not tell, `before_first_fpdu` decides (only MPA fails that early).
    [[nodiscard]] static bool parse(std::span<const std::byte> bytes, bool before_first_fpdu,
                                    TerminateBody& out);
    // Always in RFC order unless `swapped` is set. Returns the bytes written.
    std::size_t emit(std::span<std::byte, kMaxSize> bytes) const;
    friend bool operator==(const TerminateBody&, const TerminateBody&) = default;
};

}  // namespace ndv::iwarp

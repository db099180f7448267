// SPDX-License-Identifier: Apache-2.0
// The sentence behind a Detail.
#include "core/detail.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <iterator>
#include <system_error>

namespace ndv::core {
namespace {

// Names of the Terminate codes: RFC 5040 section 4.8, RFC 5041 section 7.2, RFC 5044 section 8,
// RFC 6581 section 8.
struct CodeName {
    std::uint8_t layer;
    std::uint8_t error_type;
    int code;  // kAnyCode: the type has no codes
    const char* text;
};
constexpr int kAnyCode = -1;
constexpr CodeName kCodeNames[] = {
    {0, 0, kAnyCode, "RDMAP local catastrophic error"},
    {0, 1, 0x00, "RDMAP remote protection error: invalid STag"},
    {0, 1, 0x01, "RDMAP remote protection error: base or bounds violation"},
    {0, 1, 0x02, "RDMAP remote protection error: access rights violation"},
    {0, 1, 0x03, "RDMAP remote protection error: STag not associated with the stream"},
    {0, 1, 0x04, "RDMAP remote protection error: tagged offset wrap"},
    {0, 1, 0x09, "RDMAP remote protection error: STag cannot be invalidated"},
    {0, 1, 0xFF, "RDMAP remote protection error: unspecified"},
    {0, 2, 0x05, "RDMAP remote operation error: invalid RDMAP version"},
    {0, 2, 0x06, "RDMAP remote operation error: unexpected opcode"},
    {0, 2, 0x07, "RDMAP remote operation error: catastrophic, localized to the stream"},
    {0, 2, 0x08, "RDMAP remote operation error: catastrophic, global"},
    {0, 2, 0x09, "RDMAP remote operation error: STag cannot be invalidated"},
    {0, 2, 0xFF, "RDMAP remote operation error: unspecified"},
    {1, 0, kAnyCode, "DDP local catastrophic error"},
    {1, 1, 0x00, "DDP tagged buffer error: invalid STag"},
    {1, 1, 0x01, "DDP tagged buffer error: base or bounds violation"},
    {1, 1, 0x02, "DDP tagged buffer error: STag not associated with the stream"},
    {1, 1, 0x03, "DDP tagged buffer error: tagged offset wrap"},
    {1, 1, 0x04, "DDP tagged buffer error: invalid DDP version"},
    {1, 2, 0x01, "DDP untagged buffer error: invalid queue number"},
    {1, 2, 0x02, "DDP untagged buffer error: no receive was posted for the message"},
    {1, 2, 0x03, "DDP untagged buffer error: message sequence number out of range"},
    {1, 2, 0x04, "DDP untagged buffer error: invalid message offset"},
    {1, 2, 0x05, "DDP untagged buffer error: message longer than the posted receive"},
    {1, 2, 0x06, "DDP untagged buffer error: invalid DDP version"},
    {2, 0, 0x01, "MPA error: TCP connection closed, terminated or lost"},
    {2, 0, 0x02, "MPA error: CRC error"},
    {2, 0, 0x03, "MPA error: marker and length mismatch"},
    {2, 0, 0x04, "MPA error: invalid request or reply frame"},
    {2, 0, 0x05, "MPA error: local catastrophic error in the enhanced setup"},
    {2, 0, 0x06, "MPA error: insufficient IRD resources"},
    {2, 0, 0x07, "MPA error: no matching RTR option"},
};

std::string code_text(const Detail& detail) {
    const auto* found = std::ranges::find_if(kCodeNames, [&detail](const CodeName& name) {
        return name.layer == detail.layer && name.error_type == detail.error_type &&
               (name.code == kAnyCode || name.code == detail.code);
    });
    const char* const text = found == std::end(kCodeNames) ? "unknown error" : found->text;
    constexpr const char* kDigits = "0123456789abcdef";
    const std::array<char, 3> code = {kDigits[detail.code >> 4U], kDigits[detail.code & 15U], 0};
    return std::string(text) + " (" + std::to_string(detail.layer) + "/" +
           std::to_string(detail.error_type) + "/" + code.data() + ")";
}

// ibv_wc_status by number.
constexpr std::array<const char*, 24> kDeviceStatusNames = {
    "success",
    "local length error",
    "local QP operation error",
    "local EE context operation error",
    "local protection error",
    "work request flushed",
    "memory window bind error",
    "bad response",
    "local access error",
    "remote invalid request",
    "remote access error",
    "remote operation error",
    "transport retries exceeded",
    "receiver-not-ready retries exceeded",
    "local RDD violation",
    "remote invalid RD request",
    "remote aborted",
    "invalid EE context number",
    "invalid EE context state",
    "fatal error",
    "response timeout",
    "general error",
    "tag matching error",
    "tag matching rendezvous incomplete",
};

std::string device_text(const Detail& detail) {
    const char* const name = detail.code < kDeviceStatusNames.size()
                                 ? kDeviceStatusNames[detail.code]
                                 : "unknown status";
    return "the device reported: " + std::string(name) + " (status " + std::to_string(detail.code) +
           ", vendor code " + std::to_string(detail.vendor_error) + ")";
}

// By the number of an End.
constexpr const char* kEndSentences[] = {
#define NDV_X(name, sentence) sentence,
    NDV_END_LIST(NDV_X)
#undef NDV_X
};

}  // namespace

std::string detail_text(const Detail& detail) {
    switch (detail.source) {
        case Detail::Source::none:
            break;
        case Detail::Source::end:
            return kEndSentences[detail.code];
        case Detail::Source::local:
            return "this side terminated the stream: " + code_text(detail);
        case Detail::Source::peer:
            return "peer terminated the stream: " + code_text(detail);
        case Detail::Source::device:
            return device_text(detail);
        case Detail::Source::system:
            // std::generic_category is strerror without its static buffer.
            return "the system reported: " + std::generic_category().message(detail.os_error) +
                   " (errno " + std::to_string(detail.os_error) + ")";
    }
    return {};
}

int error_number_of(const Detail& cause) {
    using Source = Detail::Source;
    const bool is_far = cause.source == Source::peer || cause.source == Source::system ||
                        cause.source == Source::device || cause.is(End::peer_closed) ||
                        cause.is(End::lost);
    // Layer 2, code 1: we saw the stream end in the middle of something.
    const bool is_cut = cause.source == Source::local && cause.layer == 2 && cause.code == 1;
    return is_far || is_cut ? ECONNRESET : ECONNABORTED;
}

std::uint64_t packed(const Detail& detail) {
    const std::uint32_t number =
        detail.source == Detail::Source::system ? detail.os_error : detail.vendor_error;
    return std::uint64_t{number} << 32U | std::uint64_t{detail.code} << 24U |
           std::uint64_t{detail.error_type} << 16U | std::uint64_t{detail.layer} << 8U |
           static_cast<std::uint64_t>(detail.source);
}

Detail unpacked(std::uint64_t word) {
    Detail out;
    out.source = static_cast<Detail::Source>(static_cast<std::uint8_t>(word));
    out.layer = static_cast<std::uint8_t>(word >> 8U);
    out.error_type = static_cast<std::uint8_t>(word >> 16U);
    out.code = static_cast<std::uint8_t>(word >> 24U);
    const auto number = static_cast<std::uint32_t>(word >> 32U);
    if (out.source == Detail::Source::system) {
        out.os_error = static_cast<std::uint16_t>(number);
    } else {
        out.vendor_error = number;
    }
    return out;
}

}  // namespace ndv::core

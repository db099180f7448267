// SPDX-License-Identifier: Apache-2.0
// FPDU, DDP and RDMAP headers as values: RFC 5044 section 4, RFC 5041 section 4, RFC 5040
// section 4, RFC 7306 sections 5 and 6. Offsets count from ULPDU_Length, which every header here
// includes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace ndv::iwarp {

inline constexpr std::size_t kLengthSize = 2;  // ULPDU_Length
inline constexpr std::size_t kCrcSize = 4;
// 2 + 65535 + pad + CRC: receivers take any 16-bit length.
inline constexpr std::size_t kMaxFpdu = 65544;
inline constexpr std::uint32_t kTagged = 0xFFFFFFFF;  // in place of a queue number
inline constexpr std::uint32_t kQueueSend = 0;        // DDP queue numbers, RFC 5040 section 5.1
inline constexpr std::uint32_t kQueueReadRequest = 1;
inline constexpr std::uint32_t kQueueTerminate = 2;
inline constexpr std::uint32_t kQueueAtomicResponse = 3;  // RFC 7306 section 5

// Pad bytes that make ULPDU_Length + ULPDU a multiple of four.
[[nodiscard]] constexpr std::size_t pad_size(std::size_t ulpdu_length) {
    return (4 - (kLengthSize + ulpdu_length) % 4) % 4;
}
[[nodiscard]] constexpr std::size_t fpdu_size(std::size_t ulpdu_length) {
    return kLengthSize + ulpdu_length + pad_size(ulpdu_length) + kCrcSize;
}

// ULPDU_Length and the two control bytes of DDP and RDMAP.
struct Control {
    static constexpr std::size_t kSize = 4;
    static constexpr std::uint8_t kDdpVersion = 1;
    static constexpr std::uint8_t kRdmapVersion = 1;

    std::uint16_t ulpdu_length = 0;
    bool tagged = false;
    bool last = false;
    std::uint8_t ddp_version = kDdpVersion;
    std::uint8_t rdmap_version = kRdmapVersion;
    std::uint8_t opcode = 0;  // raw: may be none of Opcode

    [[nodiscard]] static Control parse(std::span<const std::byte, kSize> bytes);
    void emit(std::span<std::byte, kSize> bytes) const;
    friend bool operator==(const Control&, const Control&) = default;
};

struct TaggedHeader {
    static constexpr std::size_t kSize = 16;
    Control control;
    std::uint32_t stag = 0;
    std::uint64_t to = 0;

    [[nodiscard]] static TaggedHeader parse(std::span<const std::byte, kSize> bytes);
    void emit(std::span<std::byte, kSize> bytes) const;
    friend bool operator==(const TaggedHeader&, const TaggedHeader&) = default;
};

struct UntaggedHeader {
    static constexpr std::size_t kSize = 20;
    Control control;
    std::uint32_t invalidate_stag = 0;  // RsvdULP: the STag of Send with Invalidate, else zero
    std::uint32_t queue_number = 0;
    std::uint32_t msn = 0;
    std::uint32_t mo = 0;

    [[nodiscard]] static UntaggedHeader parse(std::span<const std::byte, kSize> bytes);
    void emit(std::span<std::byte, kSize> bytes) const;
    friend bool operator==(const UntaggedHeader&, const UntaggedHeader&) = default;
};

// The body of a Read Request, RFC 5040 section 4.4; it follows an UntaggedHeader.
struct ReadRequestBody {
    static constexpr std::size_t kSize = 28;
    std::uint32_t sink_stag = 0;
    std::uint64_t sink_to = 0;
    std::uint32_t size = 0;
    std::uint32_t source_stag = 0;
    std::uint64_t source_to = 0;

    [[nodiscard]] static ReadRequestBody parse(std::span<const std::byte, kSize> bytes);
    void emit(std::span<std::byte, kSize> bytes) const;
    friend bool operator==(const ReadRequestBody&, const ReadRequestBody&) = default;
};

// The eight bytes of Immediate Data, RFC 7306 section 6, which says nothing about a shorter value:
// the 32 bits of a write with immediate come first, zeros follow.
struct ImmediateBody {
    static constexpr std::size_t kSize = 8;
    std::uint32_t value = 0;
    std::uint32_t rest = 0;

    [[nodiscard]] static ImmediateBody parse(std::span<const std::byte, kSize> bytes);
    void emit(std::span<std::byte, kSize> bytes) const;
    friend bool operator==(const ImmediateBody&, const ImmediateBody&) = default;
};

enum class AtomicOperation : std::uint8_t { fetch_add = 0, compare_swap = 2 };

// The body of an Atomic Request, RFC 7306 section 5; it follows an UntaggedHeader.
struct AtomicRequestBody {
    static constexpr std::size_t kSize = 52;
    std::uint8_t operation = 0;  // raw, four bits: may be none of AtomicOperation
    std::uint32_t request_id = 0;
    std::uint32_t stag = 0;
    std::uint64_t to = 0;
    std::uint64_t operand = 0;  // what is added, or stored
    std::uint64_t operand_mask = 0;
    std::uint64_t compare = 0;
    std::uint64_t compare_mask = 0;

    [[nodiscard]] static AtomicRequestBody parse(std::span<const std::byte, kSize> bytes);
    void emit(std::span<std::byte, kSize> bytes) const;
    friend bool operator==(const AtomicRequestBody&, const AtomicRequestBody&) = default;
};

// The body of an Atomic Response.
struct AtomicResponseBody {
    static constexpr std::size_t kSize = 12;
    std::uint32_t request_id = 0;
    std::uint64_t value = 0;  // of the word, before the operation

    [[nodiscard]] static AtomicResponseBody parse(std::span<const std::byte, kSize> bytes);
    void emit(std::span<std::byte, kSize> bytes) const;
    friend bool operator==(const AtomicResponseBody&, const AtomicResponseBody&) = default;
};

// RFC 5040 section 4.1, RFC 7306 section 4 and RFC 6580.
// X(name, value, begin, end, queue, body, invalidates, solicits). begin and end: what the engine
// does with the header, begin_<begin>(), and with the end of the message, end_<end>(). body: bytes
// behind the header of what has a fixed body, and no payload.
#define NDV_OPCODE_LIST(X)                                                                         \
    X(write, 0, write, write, kTagged, 0, false, false)                                            \
    X(read_request, 1, read_request, request, kQueueReadRequest, ReadRequestBody::kSize, false,    \
      false)                                                                                       \
    X(read_response, 2, read_response, read_response, kTagged, 0, false, false)                    \
    X(send, 3, send, send, kQueueSend, 0, false, false)                                            \
    X(send_invalidate, 4, send, send, kQueueSend, 0, true, false)                                  \
    X(send_solicited, 5, send, send, kQueueSend, 0, false, true)                                   \
    X(send_solicited_invalidate, 6, send, send, kQueueSend, 0, true, true)                         \
    X(terminate, 7, terminate, terminate, kQueueTerminate, 0, false, false)                        \
    X(immediate, 8, immediate, immediate, kQueueSend, ImmediateBody::kSize, false, false)          \
    X(immediate_solicited, 9, immediate, immediate, kQueueSend, ImmediateBody::kSize, false, true) \
    X(atomic_request, 10, atomic_request, request, kQueueReadRequest, AtomicRequestBody::kSize,    \
      false, false)                                                                                \
    X(atomic_response, 11, atomic_response, atomic_response, kQueueAtomicResponse,                 \
      AtomicResponseBody::kSize, false, false)

enum class Opcode : std::uint8_t {
#define NDV_X(name, value, ...) name = value,
    NDV_OPCODE_LIST(NDV_X)
#undef NDV_X
};

struct OpcodeRow {
    bool is_known = false;
    std::uint32_t queue = kTagged;
    bool invalidates = false;
    bool solicits = false;
    std::size_t header_size = 0;  // from ULPDU_Length to the payload

    [[nodiscard]] constexpr bool is_tagged() const { return queue == kTagged; }
};

// By the four bits of the wire.
inline constexpr std::array<OpcodeRow, 16> kOpcodes = [] {
    std::array<OpcodeRow, 16> out;
#define NDV_X(name, value, begin, end, queue, body, invalidates, solicits) \
    out[value] = {true, queue, invalidates, solicits,                      \
                  ((queue) == kTagged ? TaggedHeader::kSize : UntaggedHeader::kSize) + (body)};
    NDV_OPCODE_LIST(NDV_X)
#undef NDV_X
    return out;
}();

[[nodiscard]] constexpr const OpcodeRow& row_of(Opcode opcode) {
    return kOpcodes[static_cast<std::uint8_t>(opcode)];
}

// Of a segment with `header` bytes from ULPDU_Length to the payload.
[[nodiscard]] constexpr Control control_of(Opcode opcode, std::size_t header, std::uint32_t payload,
                                           bool last) {
    Control out;
    out.ulpdu_length = static_cast<std::uint16_t>(header - kLengthSize + payload);
    out.tagged = row_of(opcode).is_tagged();
    out.last = last;
    out.opcode = static_cast<std::uint8_t>(opcode);
    return out;
}

}  // namespace ndv::iwarp

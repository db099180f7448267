// SPDX-License-Identifier: Apache-2.0
// What rsockets puts on the wire: the private data of request and reply, the
// 32-bit message word, and the descriptors that one end writes into the other's memory. Values in,
// bytes out; no state. Source: librdmacm, rsocket.c (struct rs_conn_data, rs_msg_set, struct
// rs_sge, struct rs_iomap).
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/expected.hpp"

namespace ndv::stream {

// Memory of one end as the other one names it.
struct RemoteRange {
    std::uint64_t address = 0;
    std::uint32_t key = 0;
    std::uint32_t length = 0;  // bytes; of ConnectionData::targets, entries
};

// Private data of the connect request and of its reply: big-endian, the only such part.
struct ConnectionData {
    static constexpr std::size_t kSize = 40;
    static constexpr std::uint8_t kVersion = 1;
    static constexpr std::uint32_t kMaxIomapEntries = 0x7F00;  // of the 8-bit scale

    bool is_big_endian = false;  // the machine that sends it
    bool knows_iomap = true;     // it reads `iomap_entries` of the other end
    std::uint16_t credits = 0;   // messages that the other end may send before an update
    std::uint32_t iomap_entries = 0;
    RemoteRange targets;  // where the other end writes its descriptors; length in entries
    RemoteRange data;     // where the other end may write data at once

    // Bytes after the 40th are ignored: devices pad private data.
    [[nodiscard]] static Expected<ConnectionData> parse(std::span<const std::byte> bytes);
    [[nodiscard]] std::array<std::byte, kSize> emit() const;
};

enum class MessageOp : std::uint8_t {
    data = 0,  // that many bytes were written
    reserved_1 = 1,
    write = 2,  // of librdmacm's own bookkeeping, nothing on the wire
    reserved_3 = 3,
    update = 4,  // credits, and maybe a descriptor was written (RS_OP_SGL)
    reserved_5 = 5,
    iomap = 6,  // a mapping was written
    control = 7,
};

enum class ControlCode : std::uint32_t { disconnect = 0, keepalive = 1, shutdown = 2 };

struct MessageWord {
    static constexpr std::size_t kSize = 4;
    static constexpr std::uint32_t kMaxData = 0x1FFFFFFF;

    MessageOp op = MessageOp::data;
    std::uint32_t data = 0;  // 29 bits

    [[nodiscard]] static constexpr MessageWord unpack(std::uint32_t word) {
        return {static_cast<MessageOp>(word >> 29U), word & kMaxData};
    }
    [[nodiscard]] constexpr std::uint32_t pack() const {
        return (static_cast<std::uint32_t>(op) << 29U) | (data & kMaxData);
    }
    // As the payload of a Send, where there is no immediate data: in the sender's own order.
    [[nodiscard]] static MessageWord parse(std::span<const std::byte, kSize> bytes);
    [[nodiscard]] std::array<std::byte, kSize> emit() const;
};

// In the byte order of the end that owns the memory it is written to.
struct Descriptor {
    static constexpr std::size_t kSize = 16;

    RemoteRange range;

    [[nodiscard]] static Descriptor parse(std::span<const std::byte, kSize> bytes,
                                          bool is_swapped = false);
    [[nodiscard]] std::array<std::byte, kSize> emit(bool is_swapped = false) const;
};

// Memory that the other end may write to by offset, and no message tells when it did.
struct Mapping {
    static constexpr std::size_t kSize = 24;

    std::uint64_t offset = 0;  // of its first byte, as the application counts
    RemoteRange range;

    [[nodiscard]] static Mapping parse(std::span<const std::byte, kSize> bytes);
    [[nodiscard]] std::array<std::byte, kSize> emit(bool is_swapped = false) const;
};

inline constexpr bool kIsBigEndian = std::endian::native == std::endian::big;

}  // namespace ndv::stream

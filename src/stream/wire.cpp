// SPDX-License-Identifier: Apache-2.0
// Bytes of connection data, message words and descriptors.
#include "stream/wire.hpp"

#include <algorithm>
#include <cstring>
#include <string>

#include "base/bytes.hpp"

namespace ndv::stream {
namespace {

using base::load_be;
using base::store_be;

constexpr std::uint8_t kFlagBigEndian = 1;  // RS_CONN_FLAG_NET
constexpr std::uint8_t kFlagIomap = 2;      // RS_CONN_FLAG_IOMAP

// Eight bits for a number of entries: up to 128 as it is, above in units of 256.
std::uint32_t unscaled(std::uint8_t value) {
    return value <= 128 ? value : static_cast<std::uint32_t>(value & 0x7FU) << 8U;
}

std::uint8_t scaled(std::uint32_t entries) {
    if (entries <= 128) return static_cast<std::uint8_t>(entries);
    const std::uint32_t most = std::min(entries, ConnectionData::kMaxIomapEntries);
    return static_cast<std::uint8_t>(0x80U | (most >> 8U));
}

RemoteRange load_range(const std::byte* from) {
    return {load_be<std::uint64_t>(from), load_be<std::uint32_t>(from + 8),
            load_be<std::uint32_t>(from + 12)};
}

void store_range(std::byte* to, const RemoteRange& range) {
    store_be(to, range.address);
    store_be(to + 8, range.key);
    store_be(to + 12, range.length);
}

template <typename T>
T load(const std::byte* from, bool is_swapped) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return is_swapped ? base::byte_swapped(value) : value;
}

template <typename T>
void store(std::byte* to, T value, bool is_swapped) {
    if (is_swapped) value = base::byte_swapped(value);
    std::memcpy(to, &value, sizeof value);
}

}  // namespace

Expected<ConnectionData> ConnectionData::parse(std::span<const std::byte> bytes) {
    if (bytes.size() < kSize) {
        return fail(Status::connection_aborted,
                    "the peer's connection data has " + std::to_string(bytes.size()) +
                        " bytes; a stream's has " + std::to_string(kSize),
                    "is the peer a stream socket?");
    }
    const auto version = std::to_integer<std::uint8_t>(bytes[0]);
    if (version != kVersion) {
        return fail(Status::connection_aborted,
                    "the peer speaks version " + std::to_string(version) +
                        " of the stream protocol; this is version " + std::to_string(kVersion),
                    "is the peer a stream socket?");
    }
    const auto flags = std::to_integer<std::uint8_t>(bytes[1]);
    ConnectionData out;
    out.is_big_endian = (flags & kFlagBigEndian) != 0;
    out.knows_iomap = (flags & kFlagIomap) != 0;
    out.credits = load_be<std::uint16_t>(&bytes[2]);
    out.iomap_entries = unscaled(std::to_integer<std::uint8_t>(bytes[7]));
    out.targets = load_range(&bytes[8]);
    out.data = load_range(&bytes[24]);
    return out;
}

std::array<std::byte, ConnectionData::kSize> ConnectionData::emit() const {
    std::array<std::byte, kSize> out{};
    out[0] = std::byte{kVersion};
    out[1] = static_cast<std::byte>((is_big_endian ? kFlagBigEndian : 0U) |
                                    (knows_iomap ? kFlagIomap : 0U));
    store_be(&out[2], credits);
    out[7] = std::byte{scaled(iomap_entries)};
    store_range(&out[8], targets);
    store_range(&out[24], data);
    return out;
}

MessageWord MessageWord::parse(std::span<const std::byte, kSize> bytes) {
    return unpack(load<std::uint32_t>(bytes.data(), false));
}

std::array<std::byte, MessageWord::kSize> MessageWord::emit() const {
    std::array<std::byte, kSize> out;
    store(out.data(), pack(), false);
    return out;
}

Descriptor Descriptor::parse(std::span<const std::byte, kSize> bytes, bool is_swapped) {
    return {{load<std::uint64_t>(bytes.data(), is_swapped),
             load<std::uint32_t>(&bytes[8], is_swapped),
             load<std::uint32_t>(&bytes[12], is_swapped)}};
}

std::array<std::byte, Descriptor::kSize> Descriptor::emit(bool is_swapped) const {
    std::array<std::byte, kSize> out;
    store(out.data(), range.address, is_swapped);
    store(&out[8], range.key, is_swapped);
    store(&out[12], range.length, is_swapped);
    return out;
}

Mapping Mapping::parse(std::span<const std::byte, kSize> bytes) {
    return {load<std::uint64_t>(bytes.data(), false),
            Descriptor::parse(bytes.last<Descriptor::kSize>()).range};
}

std::array<std::byte, Mapping::kSize> Mapping::emit(bool is_swapped) const {
    std::array<std::byte, kSize> out;
    store(out.data(), offset, is_swapped);
    const auto rest = Descriptor{range}.emit(is_swapped);
    std::memcpy(&out[sizeof offset], rest.data(), rest.size());
    return out;
}

}  // namespace ndv::stream

// SPDX-License-Identifier: Apache-2.0
// Big-endian loads and stores for wire formats, over unaligned bytes.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace ndv::base {

template <typename T>
[[nodiscard]] inline T byte_swapped(T value) {
    if constexpr (sizeof(T) == 2) {
        return static_cast<T>(__builtin_bswap16(value));
    } else if constexpr (sizeof(T) == 4) {
        return __builtin_bswap32(value);
    } else {
        static_assert(sizeof(T) == 8);
        return __builtin_bswap64(value);
    }
}

template <typename T>
[[nodiscard]] inline T load_be(const std::byte* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return std::endian::native == std::endian::little ? byte_swapped(value) : value;
}

template <typename T>
inline void store_be(std::byte* to, T value) {
    if constexpr (std::endian::native == std::endian::little) value = byte_swapped(value);
    std::memcpy(to, &value, sizeof value);
}

// The MPA CRC is the one little-endian field of iWARP (RFC 5044 section 4.4).
inline void store_le32(std::byte* to, std::uint32_t value) {
    if constexpr (std::endian::native == std::endian::big) value = byte_swapped(value);
    std::memcpy(to, &value, sizeof value);
}

[[nodiscard]] inline std::uint32_t load_le32(const std::byte* from) {
    std::uint32_t value;
    std::memcpy(&value, from, sizeof value);
    return std::endian::native == std::endian::big ? byte_swapped(value) : value;
}

}  // namespace ndv::base

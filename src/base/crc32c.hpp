// SPDX-License-Identifier: Apache-2.0
// CRC32C (Castagnoli), the checksum of MPA (RFC 5044 section 4.4, RFC 3720 section 12.1).
// Owns the arithmetic and the choice of instructions; where a CRC goes on the wire is iwarp's.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ndv::base {

// CRC of the bytes so far followed by `data`. Start with 0; pass the previous result to go on, so
// that crc32c(crc32c(0, a), b) is the CRC of a followed by b.
[[nodiscard]] std::uint32_t crc32c(std::uint32_t crc, const void* data, std::size_t size) noexcept;

// The same without special instructions: the fallback, and what tests compare the others with.
[[nodiscard]] std::uint32_t crc32c_portable(std::uint32_t crc, const void* data,
                                            std::size_t size) noexcept;

}  // namespace ndv::base

// SPDX-License-Identifier: Apache-2.0
// CRC32C three ways: x86 crc32 + PCLMULQDQ, AArch64 crc32c, and slicing-by-8 tables. The choice is
// made at run time, so that one build serves every CPU. All values are bit-reflected: bit 0 of a
// 32-bit remainder is the coefficient of x^31.
#include "base/crc32c.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "base/bytes.hpp"

#if defined(__x86_64__)
#include <nmmintrin.h>
#include <wmmintrin.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#ifdef __clang__
#define NDV_TARGET_CRC __attribute__((target("crc")))
#else
#define NDV_TARGET_CRC __attribute__((target("+crc")))
#endif
#endif

namespace ndv::base {
namespace {

// 0x1EDC6F41 reflected (RFC 3720 section 12.1).
constexpr std::uint32_t kPolynomial = 0x82F63B78;

constexpr std::uint32_t times_x(std::uint32_t remainder) {
    return (remainder >> 1) ^ ((remainder & 1) != 0 ? kPolynomial : 0);
}

// tables[k][byte]: remainder of the byte followed by k zero bytes.
using SliceTables = std::array<std::array<std::uint32_t, 256>, 8>;

constexpr SliceTables make_slice_tables() {
    SliceTables tables{};
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
        std::uint32_t remainder = byte;
        for (int bit = 0; bit < 8; ++bit) remainder = times_x(remainder);
        tables[0][byte] = remainder;
    }
    for (std::size_t k = 1; k < 8; ++k) {
        for (std::size_t byte = 0; byte < 256; ++byte) {
            const std::uint32_t before = tables[k - 1][byte];
            tables[k][byte] = (before >> 8) ^ tables[0][before & 0xFF];
        }
    }
    return tables;
}

constexpr SliceTables kSlices = make_slice_tables();

#if defined(__x86_64__)

#define NDV_TARGET_CRC __attribute__((target("sse4.2,pclmul")))

// One crc32 instruction takes 3 cycles and one can start every cycle: three independent streams
// keep the unit busy. The streams are equal parts of a block of at most 3 * 256 words, for the
// combining constants to stay a small table.
constexpr std::size_t kMaxStreamWords = 256;
// Below this, combining costs more than one stream loses (measured: even at 64 bytes on Zen).
constexpr std::size_t kMinInterleaved = 72;

// kShifts[n] = x^(64n - 33) mod P. The reflected 32 x 32 bit carry-less product stands one bit low
// in the 64-bit word that the crc32 instruction takes, and the instruction multiplies by x^32:
// together x^33, so that multiply and crc32 move a remainder over n words.
constexpr auto make_shifts() {
    std::array<std::uint32_t, 2 * kMaxStreamWords + 1> shifts{};
    std::uint32_t power = 1;  // x^31, n = 1
    for (std::size_t n = 1; n < shifts.size(); ++n) {
        shifts[n] = power;
        for (int bit = 0; bit < 64; ++bit) power = times_x(power);
    }
    return shifts;
}

constexpr auto kShifts = make_shifts();

NDV_TARGET_CRC inline __m128i shifted(std::uint64_t crc, std::size_t words) {
    return _mm_clmulepi64_si128(_mm_cvtsi64_si128(static_cast<long long>(crc)),
                                _mm_cvtsi64_si128(static_cast<long long>(kShifts[words])), 0);
}

NDV_TARGET_CRC inline std::uint64_t take_word(std::uint64_t crc, const std::byte* from) {
    std::uint64_t word;
    std::memcpy(&word, from, sizeof word);
    return _mm_crc32_u64(crc, word);
}

NDV_TARGET_CRC std::uint32_t crc32c_accelerated(std::uint32_t start, const std::byte* from,
                                                std::size_t size) {
    std::uint64_t crc = ~start;
    while (size >= kMinInterleaved) {
        const std::size_t words = std::min(size / 24, kMaxStreamWords);
        const std::size_t stream = words * 8;
        std::uint64_t second = 0;
        std::uint64_t third = 0;
        for (const std::byte* const end = from + stream; from != end; from += 8) {
            crc = take_word(crc, from);
            second = take_word(second, from + stream);
            third = take_word(third, from + 2 * stream);
        }
        const __m128i moved = _mm_xor_si128(shifted(crc, 2 * words), shifted(second, words));
        crc = third ^ _mm_crc32_u64(0, static_cast<std::uint64_t>(_mm_cvtsi128_si64(moved)));
        from += 2 * stream;
        size -= 3 * stream;
    }
    for (; size >= 8; size -= 8, from += 8) crc = take_word(crc, from);
    auto remainder = static_cast<std::uint32_t>(crc);
    for (; size > 0; --size) {
        remainder = _mm_crc32_u8(remainder, static_cast<unsigned char>(*from++));
    }
    return ~remainder;
}

// Not cached: the compiler's run time fills the CPU model at load, the test is one load.
inline bool is_accelerated() {
    return __builtin_cpu_supports("sse4.2") != 0 && __builtin_cpu_supports("pclmul") != 0;
}

#elif defined(__aarch64__)

// The assembler form, because arm_acle.h hides the intrinsics unless the whole file is built
// for CPUs that have them.
NDV_TARGET_CRC inline std::uint32_t crc_u64(std::uint32_t crc, std::uint64_t word) {
    __asm__("crc32cx %w0, %w0, %x1" : "+r"(crc) : "r"(word));
    return crc;
}

NDV_TARGET_CRC inline std::uint32_t crc_u8(std::uint32_t crc, std::uint32_t byte) {
    __asm__("crc32cb %w0, %w0, %w1" : "+r"(crc) : "r"(byte));
    return crc;
}

NDV_TARGET_CRC std::uint32_t crc32c_accelerated(std::uint32_t start, const std::byte* from,
                                                std::size_t size) {
    std::uint32_t crc = ~start;
    for (; size >= 8; size -= 8, from += 8) {
        std::uint64_t word;
        std::memcpy(&word, from, sizeof word);
        // The instruction takes the low byte first, which is the order of memory only when the
        // CPU runs little-endian.
        if constexpr (std::endian::native == std::endian::big) word = byte_swapped(word);
        crc = crc_u64(crc, word);
    }
    for (; size > 0; --size) crc = crc_u8(crc, static_cast<std::uint32_t>(*from++));
    return ~crc;
}

inline bool is_accelerated() {
    constexpr unsigned long kHwcapCrc32 = 1UL << 7;  // HWCAP_CRC32, Linux asm/hwcap.h
    return (getauxval(AT_HWCAP) & kHwcapCrc32) != 0;
}

#else

std::uint32_t crc32c_accelerated(std::uint32_t crc, const std::byte* from, std::size_t size) {
    return crc32c_portable(crc, from, size);
}

inline bool is_accelerated() { return false; }

#endif

}  // namespace

std::uint32_t crc32c_portable(std::uint32_t crc, const void* data, std::size_t size) noexcept {
    const auto* from = static_cast<const std::byte*>(data);
    crc = ~crc;
    for (; size >= 8; size -= 8, from += 8) {
        const std::uint32_t low = crc ^ load_le32(from);
        const std::uint32_t high = load_le32(from + 4);
        crc = kSlices[7][low & 0xFF] ^ kSlices[6][(low >> 8) & 0xFF] ^
              kSlices[5][(low >> 16) & 0xFF] ^ kSlices[4][low >> 24] ^ kSlices[3][high & 0xFF] ^
              kSlices[2][(high >> 8) & 0xFF] ^ kSlices[1][(high >> 16) & 0xFF] ^
              kSlices[0][high >> 24];
    }
    for (; size > 0; --size) {
        crc = (crc >> 8) ^ kSlices[0][(crc ^ static_cast<std::uint32_t>(*from++)) & 0xFF];
    }
    return ~crc;
}

std::uint32_t crc32c(std::uint32_t crc, const void* data, std::size_t size) noexcept {
    if (!is_accelerated()) return crc32c_portable(crc, data, size);
    return crc32c_accelerated(crc, static_cast<const std::byte*>(data), size);
}

}  // namespace ndv::base

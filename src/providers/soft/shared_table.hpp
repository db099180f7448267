// SPDX-License-Identifier: Apache-2.0
// What processes of this host see of a memory table: a line per slot, written by the owner only,
// in a file that others can map for reading alone. A line is a peer's input.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/descriptor.hpp"
#include "base/ring.hpp"
#include "base/shared_memory.hpp"

namespace ndv::soft {

// Where memory is, for the processes of this host.
namespace place {
inline constexpr std::uint64_t kInArena = 1ULL << 63U;  // else the owner's address
inline constexpr std::uint64_t kNowhere = ~0ULL;        // scattered
}  // namespace place

struct alignas(base::kCacheLine) SharedLine {
    static constexpr std::uint64_t kLive = 1ULL << 32U;

    // kLive and the token, or 0: it names nothing. Its release orders the others, which stay while
    // it stays.
    std::atomic<std::uint64_t> live;
    std::atomic<std::uint64_t> address;
    std::atomic<std::uint64_t> size;
    std::atomic<std::uint64_t> where;
    std::atomic<std::uint64_t> domain;
    std::atomic<std::uint64_t> queue_pair;  // a window's
    std::atomic<std::uint32_t> rights;
    std::atomic<std::uint32_t> is_window;
};
static_assert(sizeof(SharedLine) == base::kCacheLine);

struct SharedTable {
    static constexpr std::uint32_t kLines = 1U << 20U;

    alignas(4096) std::array<std::uint64_t, 4> key;  // of the permutation of its tokens
    alignas(4096) std::array<SharedLine, kLines> lines;
};

}  // namespace ndv::soft

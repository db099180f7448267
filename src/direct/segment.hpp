// SPDX-License-Identifier: Apache-2.0
// The memory that the two ends of a direct connection share. Each side writes its own part, apart
// from `asleep`, which the peer clears when it wakes it. All of it is a peer's input: every field
// is read once and checked.
//
// Messages go through a ring of fixed slots, so that a stamp is only ever where a stamp was, and
// no slot is cleared. What does not fit into a slot lies in `data`, or in the receive already.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/ring.hpp"

namespace ndv::direct {

inline constexpr std::uint32_t kSlots = 256;
inline constexpr std::uint32_t kPosted = 256;
// Small messages want a ring that stays in the cache, large pieces one that many of them fit into.
inline constexpr std::uint32_t kDataBytes = 128 * 1024;
inline constexpr std::uint32_t kBulkBytes = 4 * 1024 * 1024;

// message: a message of its own, or the end of one. fragment: more of it follows. placed: its
// bytes are in the receive that it takes. immediate: that of a Write. The others are requests that
// the peer executes, because its memory is not within reach: a piece of a Write, Read and atomics,
// and a piece of what these two brought.
enum class Kind : std::uint8_t {
    none,
    message,
    fragment,
    placed,
    immediate,
    write,
    read,
    fetch_add,
    compare_swap,
    answer,
};

namespace mark {
inline constexpr std::uint8_t kSolicits = 1;
inline constexpr std::uint8_t kInvalidates = 2;
inline constexpr std::uint8_t kInData = 4;  // the bytes are there, or in `bulk`, or in the slot
inline constexpr std::uint8_t kInBulk = 8;
}  // namespace mark

// relaxed, but for `word`: its release orders the others for the peer that acquired it.
struct alignas(base::kCacheLine) Slot {
    static constexpr std::uint32_t kBytes = 40;
    // Number of the slot, from 1 on, above marks and kind; written last.
    std::atomic<std::uint64_t> word;
    std::atomic<std::uint32_t> length;
    std::atomic<std::uint32_t> value;  // token, or the immediate
    std::atomic<std::uint64_t> at;     // position in the stream of `data` or `bulk`
    std::array<std::byte, kBytes> bytes;
};
static_assert(sizeof(Slot) == base::kCacheLine);

// In the bytes of the slot of a request.
struct Target {
    std::uint64_t address;
    std::uint64_t operand;  // write: bytes from this piece on to the end; read: all
    std::uint64_t compare;
};
static_assert(sizeof(Target) <= Slot::kBytes);

// A receive into which the peer may place the message of that number.
struct Posted {
    std::atomic<std::uint64_t> stamp;  // number of the message, from 1 on; 0: not any more
    std::atomic<std::uint64_t> where;  // see Reach::place_of()
    std::atomic<std::uint32_t> length;
};

namespace asleep {
inline constexpr std::uint32_t kAsleep = 1;
inline constexpr std::uint32_t kForMessages = 2;  // wakes for what comes
inline constexpr std::uint32_t kForRoom = 4;      // wakes for room in its own ring
inline constexpr std::uint32_t kUnfinished = 8;   // this side can go on at once
}  // namespace asleep

struct Side {
    // Not 0 while this side touches the peer's memory; see Reach::hazard().
    alignas(base::kCacheLine) std::atomic<std::uint64_t> hazard;
    alignas(base::kCacheLine) std::atomic<std::uint32_t> asleep;
    // Of the peer's ring.
    alignas(base::kCacheLine) std::atomic<std::uint64_t> consumed_slots;
    std::atomic<std::uint64_t> consumed_data;
    std::atomic<std::uint64_t> consumed_bulk;
    // This side ends memory that the peer may have in hand, and waits for its hazard.
    alignas(base::kCacheLine) std::atomic<std::uint32_t> closing;
    // Why this side ended the connection: see Verdict.
    std::atomic<std::uint32_t> verdict;
    alignas(base::kCacheLine) std::array<Posted, kPosted> posted;
    std::array<Slot, kSlots> slots;
    std::array<std::byte, kDataBytes> data;
    std::array<std::byte, kBulkBytes> bulk;
};

namespace state {
inline constexpr std::uint32_t kOffered = 0;
inline constexpr std::uint32_t kTakenUp = 1;
inline constexpr std::uint32_t kTakenBack = 2;
}  // namespace state

// Of zeroes when it begins.
struct Segment {
    alignas(base::kCacheLine) std::atomic<std::uint32_t> state;  // between two processes
    std::array<Side, 2> sides;
};

}  // namespace ndv::direct

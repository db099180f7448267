// SPDX-License-Identifier: Apache-2.0
// What lies in a slot of the peer's ring, read once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "direct/stream.hpp"

namespace ndv::direct {

// Of what has to go through the ring all the same: two copies on two processors, which follow each
// other this far apart.
inline constexpr std::uint32_t kFragment = 256 * 1024;

struct Stream::Message {
    explicit Message(const Slot& slot, const Side& side) {
        const std::uint64_t word = slot.word.load(std::memory_order_relaxed);
        kind = static_cast<Kind>(word & 0xFFU);
        marks = static_cast<std::uint8_t>(word >> 8U);
        length = slot.length.load(std::memory_order_relaxed);
        value = slot.value.load(std::memory_order_relaxed);
        at = slot.at.load(std::memory_order_relaxed);
        bytes = (marks & mark::kInBulk) != 0   ? side.bulk.data() + at % kBulkBytes
                : (marks & mark::kInData) != 0 ? side.data.data() + at % kDataBytes
                                               : slot.bytes.data();
        std::memcpy(&target, slot.bytes.data(), sizeof target);
    }
    // Whether the bytes lie where they can lie, for a peer whose data was taken up to there.
    [[nodiscard]] bool is_sound(std::uint64_t data_taken, std::uint64_t bulk_taken) const {
        const std::uint8_t where = marks & (mark::kInData | mark::kInBulk);
        if (where == 0) return length <= Slot::kBytes;
        if (where == mark::kInData) return lies_in(kDataBytes, data_taken);
        return where == mark::kInBulk && lies_in(kBulkBytes, bulk_taken);
    }

    Kind kind;
    std::uint8_t marks;
    std::uint32_t length;
    std::uint32_t value;
    std::uint64_t at;
    const std::byte* bytes;
    Target target;

private:
    [[nodiscard]] bool lies_in(std::uint32_t size, std::uint64_t taken) const {
        return length <= size - at % size && at - taken < size && at - taken + length <= size;
    }
};

}  // namespace ndv::direct

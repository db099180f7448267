// SPDX-License-Identifier: Apache-2.0
// The memory of one soft adapter: STags, what they name, and the pins that let a step use a region
// while deregistration waits for it. STags come from a keyed permutation: sparse, unpredictable,
// never reused soon.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "base/mutex.hpp"
#include "core/memory.hpp"
#include "iwarp/remote_memory.hpp"

namespace ndv::soft {

// A keyed permutation of 32-bit numbers (a four-round Feistel network).
class TokenPermutation {
public:
    explicit TokenPermutation(const std::array<std::uint64_t, 4>& key) : key_(key) {}
    [[nodiscard]] static TokenPermutation random();
    [[nodiscard]] std::uint32_t token(std::uint32_t number) const;
    [[nodiscard]] std::uint32_t number(std::uint32_t token) const;

private:
    [[nodiscard]] std::uint32_t round(std::size_t index, std::uint32_t half) const;
    std::array<std::uint64_t, 4> key_;
};

class MemoryTable {
public:
    MemoryTable();
    MemoryTable(const MemoryTable&) = delete;
    MemoryTable& operator=(const MemoryTable&) = delete;
    ~MemoryTable();

    // 0 when the table is full.
    [[nodiscard]] std::uint32_t add(core::BufferHold& hold, std::uint32_t rights,
                                    std::uint64_t domain);
    // The token is dead at once; returns when no step uses the region any more.
    void remove(std::uint32_t token);

    struct Entry;
    // Null when the token names nothing. A pinned entry stays what it is until unpin().
    [[nodiscard]] Entry* pin(std::uint32_t token);
    static void unpin(Entry* entry);

    struct Entry {
        // High half: generation and kValid; low half: pins. One word, so that a pin and the
        // check of what was pinned are one atomic step.
        std::atomic<std::uint64_t> word{0};
        core::BufferHold* hold = nullptr;  // kept alive by the region that registered it
        std::uint64_t address = 0;
        std::uint64_t size = 0;
        std::uint32_t rights = 0;
        std::uint64_t domain = 0;
    };

private:
    // A number behind a token: slot in the low bits, generation in the high bits.
    static constexpr std::uint32_t kSlotBits = 20;
    static constexpr std::uint32_t kSlots = 1U << kSlotBits;
    static constexpr std::uint32_t kGenerations = 1U << (32 - kSlotBits);
    static constexpr std::uint32_t kChunk = 256;
    // Slots rest this long, counted in later registrations, before they serve again.
    static constexpr std::size_t kRest = 4096;

    [[nodiscard]] Entry* entry(std::uint32_t slot) const;

    const TokenPermutation permutation_;
    std::array<std::atomic<Entry*>, kSlots / kChunk> chunks_{};
    base::Mutex mutex_;
    std::uint32_t used_ NDV_GUARDED_BY(mutex_) = 0;
    std::deque<std::uint32_t> free_ NDV_GUARDED_BY(mutex_);
    std::vector<std::uint16_t> generations_ NDV_GUARDED_BY(mutex_);
};

// The table as the engine of one connection may see it: through its protection domain.
class DomainMemory final : public iwarp::RemoteMemory {
public:
    DomainMemory(MemoryTable& table, std::uint64_t domain) : table_(table), domain_(domain) {}
    ~DomainMemory() = default;

    [[nodiscard]] iwarp::AccessResult pin(std::uint32_t stag, std::uint64_t to,
                                          std::uint32_t length, iwarp::RemoteRight right,
                                          iwarp::Pin& out) override;
    void unpin(const iwarp::Pin& pin) override;
    [[nodiscard]] iwarp::AccessResult invalidate(std::uint32_t stag) override;
    // The same for segments of this process's own requests, which need no remote right.
    [[nodiscard]] Status acquire_local(const core::Segment& segment, std::uint32_t rights,
                                       core::LocalBuffer& out);

private:
    MemoryTable& table_;
    const std::uint64_t domain_;
};

}  // namespace ndv::soft

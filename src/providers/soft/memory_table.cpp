// SPDX-License-Identifier: Apache-2.0
// STags, pins, and the checks of RFC 5040 section 7.1 in the order that siw makes them.
#include "providers/soft/memory_table.hpp"

#include <sched.h>
#include <sys/random.h>

#include <chrono>

namespace ndv::soft {
namespace {

constexpr std::uint64_t kValid = 1ULL << 63U;
constexpr std::uint64_t kPinMask = 0xFFFFFFFFULL;

constexpr std::uint64_t live_word(std::uint32_t generation) {
    return kValid | (static_cast<std::uint64_t>(generation) << 32U);
}

}  // namespace

TokenPermutation TokenPermutation::random() {
    std::array<std::uint64_t, 4> key{};
    if (::getrandom(key.data(), sizeof key, 0) != static_cast<ssize_t>(sizeof key)) {
        // Without the kernel's generator, which Linux always has: at least not constant.
        const auto now =
            static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
        for (std::size_t i = 0; i < key.size(); ++i) {
            key[i] = (now + i) * 0x9E3779B97F4A7C15ULL;
        }
    }
    return TokenPermutation(key);
}

std::uint32_t TokenPermutation::round(std::size_t index, std::uint32_t half) const {
    std::uint64_t x = (half ^ key_[index]) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ (x >> 29U) ^ key_[(index + 1) % key_.size()]) * 0x94D049BB133111EBULL;
    return static_cast<std::uint32_t>(x >> 48U);
}

std::uint32_t TokenPermutation::token(std::uint32_t number) const {
    std::uint32_t left = number >> 16U;
    std::uint32_t right = number & 0xFFFFU;
    for (std::size_t i = 0; i < key_.size(); ++i) {
        const std::uint32_t next = left ^ round(i, right);
        left = right;
        right = next;
    }
    return (left << 16U) | right;
}

std::uint32_t TokenPermutation::number(std::uint32_t token) const {
    std::uint32_t left = token >> 16U;
    std::uint32_t right = token & 0xFFFFU;
    for (std::size_t i = key_.size(); i-- > 0;) {
        const std::uint32_t previous = right ^ round(i, left);
        right = left;
        left = previous;
    }
    return (left << 16U) | right;
}

MemoryTable::MemoryTable() : permutation_(TokenPermutation::random()) {}

MemoryTable::~MemoryTable() {
    for (auto& chunk : chunks_) delete[] chunk.load(std::memory_order_relaxed);
}

MemoryTable::Entry* MemoryTable::entry(std::uint32_t slot) const {
    // acquire: pairs with the release in add(): the entries are constructed.
    Entry* chunk = chunks_[slot / kChunk].load(std::memory_order_acquire);
    return chunk == nullptr ? nullptr : chunk + slot % kChunk;
}

std::uint32_t MemoryTable::add(core::BufferHold& hold, std::uint32_t rights, std::uint64_t domain) {
    const base::Lock lock(mutex_);
    std::uint32_t slot = 0;
    if (used_ < kSlots && free_.size() < kRest) {
        slot = used_++;
        generations_.push_back(0);
        if (entry(slot) == nullptr) {
            chunks_[slot / kChunk].store(new Entry[kChunk], std::memory_order_release);
        }
    } else if (!free_.empty()) {
        slot = free_.front();
        free_.pop_front();
    } else {
        return 0;
    }
    std::uint32_t generation = (generations_[slot] + 1U) % kGenerations;
    std::uint32_t token = permutation_.token(slot | (generation << kSlotBits));
    if (token == 0) {  // STag 0 names nothing, ever
        generation = (generation + 1U) % kGenerations;
        token = permutation_.token(slot | (generation << kSlotBits));
    }
    generations_[slot] = static_cast<std::uint16_t>(generation);
    Entry* made = entry(slot);
    made->hold = &hold;
    made->address = reinterpret_cast<std::uint64_t>(hold.data());
    made->size = hold.size();
    made->rights = rights;
    made->domain = domain;
    // Adds, because a stale token may be pinning and unpinning this very entry.
    // release: pairs with the acquire in pin().
    made->word.fetch_add(live_word(generation), std::memory_order_release);
    return token;
}

void MemoryTable::remove(std::uint32_t token) {
    const std::uint32_t number = permutation_.number(token);
    Entry* gone = entry(number % kSlots);
    gone->word.fetch_and(kPinMask, std::memory_order_acq_rel);
    // acquire: pairs with the release in unpin(): what the last step did is done.
    while ((gone->word.load(std::memory_order_acquire) & kPinMask) != 0) sched_yield();
    const base::Lock lock(mutex_);
    free_.push_back(number % kSlots);
}

MemoryTable::Entry* MemoryTable::pin(std::uint32_t token) {
    const std::uint32_t number = permutation_.number(token);
    Entry* found = entry(number % kSlots);
    if (found == nullptr) return nullptr;
    // acquire: pairs with the release in add().
    const std::uint64_t word = found->word.fetch_add(1, std::memory_order_acquire);
    if ((word & ~kPinMask) == live_word(number >> kSlotBits)) return found;
    unpin(found);
    return nullptr;
}

void MemoryTable::unpin(Entry* entry) {
    entry->word.fetch_sub(1, std::memory_order_release);  // pairs with remove()
}

iwarp::AccessResult DomainMemory::pin(std::uint32_t stag, std::uint64_t to, std::uint32_t length,
                                      iwarp::RemoteRight right, iwarp::Pin& out) {
    using iwarp::AccessResult;
    MemoryTable::Entry* entry = table_.pin(stag);
    if (entry == nullptr) return AccessResult::invalid_stag;
    const std::uint32_t wanted = right == iwarp::RemoteRight::write ? core::access::kRemoteWriteBit
                                                                    : core::access::kRemoteRead;
    AccessResult result = AccessResult::granted;
    if (entry->domain != domain_) {
        result = AccessResult::not_associated;
    } else if ((entry->rights & wanted) == 0) {
        result = AccessResult::denied;
    } else if (length > 0 && to + (length - 1) < to) {
        result = AccessResult::wrap;
    } else if (to < entry->address || length > entry->size ||
               to - entry->address > entry->size - length) {
        result = AccessResult::bounds;
    }
    if (result != AccessResult::granted) {
        MemoryTable::unpin(entry);
        return result;
    }
    out = {entry->hold->data() + (to - entry->address), entry};
    return result;
}

void DomainMemory::unpin(const iwarp::Pin& pin) {
    MemoryTable::unpin(static_cast<MemoryTable::Entry*>(pin.entry));
}

iwarp::AccessResult DomainMemory::invalidate(std::uint32_t stag) {
    MemoryTable::Entry* entry = table_.pin(stag);
    if (entry == nullptr) return iwarp::AccessResult::invalid_stag;
    const bool is_ours = entry->domain == domain_;
    MemoryTable::unpin(entry);
    // NDK: what was registered by register() is not the peer's to invalidate.
    return is_ours ? iwarp::AccessResult::denied : iwarp::AccessResult::not_associated;
}

Status DomainMemory::acquire_local(const core::Segment& segment, std::uint32_t rights,
                                   core::LocalBuffer& out) {
    MemoryTable::Entry* entry = table_.pin(segment.token);
    if (entry == nullptr) return Status::access_violation;
    const bool is_granted = entry->domain == domain_ && (entry->rights & rights) == rights &&
                            segment.address >= entry->address && segment.length <= entry->size &&
                            segment.address - entry->address <= entry->size - segment.length;
    if (is_granted) {
        out = {entry->hold->data() + (segment.address - entry->address),
               static_cast<std::uint32_t>(segment.length), entry->hold};
        entry->hold->add_reference();
    }
    MemoryTable::unpin(entry);
    return is_granted ? Status::success : Status::access_violation;
}

}  // namespace ndv::soft

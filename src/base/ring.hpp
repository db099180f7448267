// SPDX-License-Identifier: Apache-2.0
// All rings of the project: SpscCursor (one poster, one stepper, storage elsewhere) and MpscRing
// (many steppers push, one consumer pops). Bounded, no allocation after construction.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace ndv::base {

inline constexpr std::size_t kCacheLine = 64;

// Positions of a single-producer single-consumer queue whose slots live elsewhere: the slot of a
// position is `position & mask()`. Positions run freely and wrap through 2^32.
class SpscCursor {
public:
    explicit SpscCursor(std::uint32_t depth)
        : depth_(depth), mask_(std::bit_ceil(depth == 0 ? 1U : depth) - 1) {}

    [[nodiscard]] std::uint32_t depth() const { return depth_; }
    [[nodiscard]] std::uint32_t mask() const { return mask_; }

    // Producer side.
    [[nodiscard]] bool is_full() const {
        // acquire: pairs with the release in retire(); the slot's content is ours again.
        return tail_.load(std::memory_order_relaxed) - head_.load(std::memory_order_acquire) >=
               depth_;
    }
    [[nodiscard]] std::uint32_t tail_position() const {
        return tail_.load(std::memory_order_relaxed);
    }
    void publish() {
        // release: pairs with the acquire in published(); the slot was filled before.
        tail_.store(tail_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
    }
    // Takes the last published position back, while the consumer cannot have met it yet.
    void retract() {
        tail_.store(tail_.load(std::memory_order_relaxed) - 1, std::memory_order_release);
    }

    // Consumer side.
    [[nodiscard]] std::uint32_t published() const {
        return tail_.load(std::memory_order_acquire);  // pairs with publish()
    }
    [[nodiscard]] std::uint32_t head_position() const {
        return head_.load(std::memory_order_relaxed);
    }
    void retire() {
        // release: pairs with the acquire in is_full().
        head_.store(head_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
    }

    // Any thread, a snapshot.
    [[nodiscard]] std::uint32_t size() const {
        const std::uint32_t head = head_.load(std::memory_order_acquire);
        return tail_.load(std::memory_order_acquire) - head;
    }

private:
    const std::uint32_t depth_;
    const std::uint32_t mask_;
    alignas(kCacheLine) std::atomic<std::uint32_t> tail_{0};  // written by the producer
    alignas(kCacheLine) std::atomic<std::uint32_t> head_{0};  // written by the consumer
};

// Many producers, one consumer. Each slot carries a sequence number that says whose turn it is.
template <typename T>
class MpscRing {
public:
    explicit MpscRing(std::uint32_t depth)
        : depth_(depth),
          mask_(std::bit_ceil(depth == 0 ? 1U : depth) - 1),
          slots_(std::make_unique<Slot[]>(static_cast<std::size_t>(mask_) + 1)) {
        for (std::uint64_t i = 0; i <= mask_; ++i) {
            slots_[i].sequence.store(i, std::memory_order_relaxed);
        }
    }

    [[nodiscard]] std::uint32_t depth() const { return depth_; }

    // False when `depth` entries are waiting: nothing was stored.
    [[nodiscard]] bool push(const T& value) {
        std::uint64_t position = tail_.load(std::memory_order_relaxed);
        while (true) {
            // acquire: pairs with the release of head_ in pop().
            if (position - head_.load(std::memory_order_acquire) >= depth_) {
                const std::uint64_t again = tail_.load(std::memory_order_relaxed);
                if (again == position) return false;
                position = again;
                continue;
            }
            Slot& slot = slots_[position & mask_];
            // acquire: pairs with the release in pop(), which gave the slot back.
            if (slot.sequence.load(std::memory_order_acquire) != position) {
                position = tail_.load(std::memory_order_relaxed);
                continue;
            }
            if (tail_.compare_exchange_weak(position, position + 1, std::memory_order_relaxed)) {
                slot.value = value;
                // release: pairs with the acquire in pop().
                slot.sequence.store(position + 1, std::memory_order_release);
                return true;
            }
        }
    }

    [[nodiscard]] bool pop(T& out) {
        const std::uint64_t position = head_.load(std::memory_order_relaxed);
        Slot& slot = slots_[position & mask_];
        // acquire: pairs with the release in push().
        if (slot.sequence.load(std::memory_order_acquire) != position + 1) return false;
        out = slot.value;
        // release: pairs with the acquire in push(): the slot is free for the next lap.
        slot.sequence.store(position + mask_ + 1, std::memory_order_release);
        head_.store(position + 1, std::memory_order_release);
        return true;
    }

    // How many more can be pushed; only grows while nobody else pushes.
    [[nodiscard]] std::uint32_t room() const {
        const std::uint64_t head = head_.load(std::memory_order_acquire);
        return depth_ - static_cast<std::uint32_t>(tail_.load(std::memory_order_acquire) - head);
    }
    // Consumer side, or a snapshot elsewhere.
    [[nodiscard]] bool is_empty() const {
        const std::uint64_t position = head_.load(std::memory_order_acquire);
        return slots_[position & mask_].sequence.load(std::memory_order_acquire) != position + 1;
    }

private:
    struct Slot {
        std::atomic<std::uint64_t> sequence{0};
        T value{};
    };

    const std::uint32_t depth_;
    const std::uint64_t mask_;
    std::unique_ptr<Slot[]> slots_;
    alignas(kCacheLine) std::atomic<std::uint64_t> tail_{0};
    alignas(kCacheLine) std::atomic<std::uint64_t> head_{0};
};

}  // namespace ndv::base

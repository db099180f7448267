// SPDX-License-Identifier: Apache-2.0
// All rings of the project: SpscCursor (one poster, one stepper, storage elsewhere) and MpscRing
// (many steppers push, one consumer pops). Bounded, no allocation after construction.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <thread>
#include <vector>

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
    // Takes the last published position back, while the consumer cannot have met it yet. release:
    // as publish().
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

    // Any thread, a snapshot. acquire: pairs with retire() and publish().
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
//
// The storage is a chain of segments: a resize beyond the capacity seals the tail of the last
// segment, so that no producer enters it any more, and goes on at that position in a new one; the
// consumer follows when it gets there. Nothing is lost, moved or reordered, and neither side pays
// for it with more than a pointer. Sealed segments stay until the end; capacities double at
// least, so that they are fewer bytes than the last one.
template <typename T>
class MpscRing {
public:
    explicit MpscRing(std::uint32_t depth) : depth_(depth) {
        segments_.push_back(std::make_unique<Segment>(depth));
        producers_.store(segments_.back().get(), std::memory_order_relaxed);
        consumer_.store(segments_.back().get(), std::memory_order_relaxed);
    }

    [[nodiscard]] std::uint32_t depth() const { return depth_.load(std::memory_order_relaxed); }

    // One caller at a time, beside any producers and the consumer. False: more entries than
    // `depth` are waiting, and nothing has changed.
    [[nodiscard]] bool resize(std::uint32_t depth) {
        if (size() > depth) return false;
        Segment* const last = producers_.load(std::memory_order_relaxed);
        if (depth - 1 > last->mask) {
            auto made = std::make_unique<Segment>(depth);
            // acq_rel: pairs with the compare-exchanges of push(): none succeeds behind this.
            const std::uint64_t end = last->tail.fetch_or(kSealed, std::memory_order_acq_rel);
            made->begin = end;
            made->tail.store(end, std::memory_order_relaxed);
            last->next.store(made.get(), std::memory_order_release);  // pairs with pop()
            producers_.store(made.get(), std::memory_order_release);  // pairs with push()
            segments_.push_back(std::move(made));
        }
        depth_.store(depth, std::memory_order_relaxed);
        return true;
    }

    // False when `depth` entries are waiting: nothing was stored.
    [[nodiscard]] bool push(const T& value) { return push(std::span(&value, 1)) == 1; }

    // In this order, and none of another producer between those of one claim. Returns how many were
    // stored: fewer when `depth` entries are waiting then.
    [[nodiscard]] std::size_t push(std::span<const T> values) {
        std::size_t done = 0;
        while (done < values.size()) {
            Segment& segment = *producers_.load(std::memory_order_acquire);  // pairs with resize()
            std::uint64_t position = segment.tail.load(std::memory_order_relaxed);
            while (done < values.size() && (position & kSealed) == 0) {
                // acquire: pairs with the release of head_ in pop().
                const std::uint64_t used = position - head_.load(std::memory_order_acquire);
                const std::uint64_t most = depth();
                if (used >= most) {
                    const std::uint64_t again = segment.tail.load(std::memory_order_relaxed);
                    if (again == position) return done;
                    position = again;
                    continue;
                }
                const std::uint64_t count =
                    std::min<std::uint64_t>(values.size() - done, most - used);
                const std::uint64_t local = position - segment.begin;
                // acquire: pairs with the release in pop(), which gave the slot back, and those
                // before it earlier.
                const std::uint64_t last = local + count - 1;
                if (segment.slots[last & segment.mask].sequence.load(std::memory_order_acquire) !=
                    last) {
                    position = segment.tail.load(std::memory_order_relaxed);
                    continue;
                }
                // acq_rel on success: ordered with the seal of resize().
                if (!segment.tail.compare_exchange_weak(position, position + count,
                                                        std::memory_order_acq_rel,
                                                        std::memory_order_relaxed)) {
                    continue;
                }
                for (std::uint64_t i = 0; i < count; ++i) {
                    Slot& slot = segment.slots[(local + i) & segment.mask];
                    slot.value = values[done + i];
                    // release: pairs with the acquire in pop().
                    slot.sequence.store(local + i + 1, std::memory_order_release);
                }
                done += count;
                position += count;
            }
            // Sealed: the next segment is a few instructions away.
            if (done < values.size()) std::this_thread::yield();
        }
        return done;
    }

    [[nodiscard]] bool pop(T& out) {
        const std::uint64_t position = head_.load(std::memory_order_relaxed);
        Segment* segment = consumer_.load(std::memory_order_relaxed);
        Slot* slot = ready_slot(*segment, position);
        while (slot == nullptr) {
            segment = next_segment(*segment, position);
            if (segment == nullptr) return false;
            consumer_.store(segment, std::memory_order_release);  // pairs with is_empty()
            slot = ready_slot(*segment, position);
        }
        out = slot->value;
        // release, both: pair with the acquires in push(): the slot is free for the next lap.
        slot->sequence.store(position - segment->begin + segment->mask + 1,
                             std::memory_order_release);
        head_.store(position + 1, std::memory_order_release);
        return true;
    }

    // How many more can be pushed; only grows while no other thread pushes.
    [[nodiscard]] std::uint32_t room() const {
        const std::uint64_t used = size();
        return used >= depth() ? 0 : depth() - static_cast<std::uint32_t>(used);
    }

    // Consumer side, or a snapshot elsewhere. acquire: pairs with pop().
    [[nodiscard]] bool is_empty() const {
        const std::uint64_t position = head_.load(std::memory_order_acquire);
        const Segment* segment = consumer_.load(std::memory_order_acquire);
        while (segment != nullptr && ready_slot(*segment, position) == nullptr) {
            segment = next_segment(*segment, position);
        }
        return segment == nullptr;
    }

    // A snapshot. acquire: pairs with pop(), resize() and push().
    [[nodiscard]] std::uint64_t size() const {
        const std::uint64_t head = head_.load(std::memory_order_acquire);
        const Segment& segment = *producers_.load(std::memory_order_acquire);
        return (segment.tail.load(std::memory_order_acquire) & ~kSealed) - head;
    }

private:
    static constexpr std::uint64_t kSealed = std::uint64_t{1} << 63U;

    struct Slot {
        std::atomic<std::uint64_t> sequence{0};
        T value{};
    };
    // Sequences and slots count from `begin`; head and tails are positions of the whole ring.
    struct Segment {
        explicit Segment(std::uint32_t depth)
            : mask(std::bit_ceil(depth == 0 ? 1U : depth) - 1),
              slots(std::make_unique<Slot[]>(static_cast<std::size_t>(mask) + 1)) {
            for (std::uint64_t i = 0; i <= mask; ++i) {
                slots[i].sequence.store(i, std::memory_order_relaxed);
            }
        }
        const std::uint64_t mask;
        const std::unique_ptr<Slot[]> slots;
        std::uint64_t begin = 0;  // constant once published
        std::atomic<Segment*> next{nullptr};
        alignas(kCacheLine) std::atomic<std::uint64_t> tail{0};
    };

    // Null: what is at the position has not come yet, or is in another segment.
    static Slot* ready_slot(const Segment& segment, std::uint64_t position) {
        const std::uint64_t local = position - segment.begin;
        Slot& slot = segment.slots[local & segment.mask];
        // acquire: pairs with the release in push().
        return slot.sequence.load(std::memory_order_acquire) == local + 1 ? &slot : nullptr;
    }

    // Null: the position is not behind this segment, as far as this thread knows. A segment into
    // which nothing was pushed, between two resizes, begins where it ends.
    static Segment* next_segment(const Segment& segment, std::uint64_t position) {
        // acquire: pairs with resize().
        Segment* const next = segment.next.load(std::memory_order_acquire);
        return next == nullptr || next->begin != position ? nullptr : next;
    }

    std::atomic<std::uint32_t> depth_;
    std::vector<std::unique_ptr<Segment>> segments_;  // resize()'s own
    std::atomic<Segment*> producers_;
    alignas(kCacheLine) std::atomic<std::uint64_t> head_{0};
    std::atomic<Segment*> consumer_;
};

}  // namespace ndv::base

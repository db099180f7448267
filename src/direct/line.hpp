// SPDX-License-Identifier: Apache-2.0
// One end of a segment, as far as threads beside the stepper use it: whether there is something to
// do, and the sleep from which the peer wakes this end.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <utility>

#include "direct/fence.hpp"
#include "direct/segment.hpp"

namespace ndv::direct {

class Line {
public:
    Line(std::shared_ptr<Segment> segment, bool is_second)
        : segment_(std::move(segment)),
          mine_(segment_->sides[is_second ? 1 : 0]),
          theirs_(segment_->sides[is_second ? 0 : 1]) {}
    Line(const Line&) = delete;
    Line& operator=(const Line&) = delete;

    [[nodiscard]] Side& mine() const { return mine_; }
    [[nodiscard]] Side& theirs() const { return theirs_; }

    // Any thread.
    // From here on the peer wakes this end. True: there is something already, and it may not.
    [[nodiscard]] bool doze() const {
        // acquire: pairs with want(). Of that and this the later one sees the other.
        std::uint32_t wants = 0;
        do {
            wants = wants_.load(std::memory_order_acquire);
            sleep_for(wants);
        } while (wants_.load(std::memory_order_acquire) != wants);
        return has_news();
    }
    [[nodiscard]] bool has_news() const {
        const std::uint32_t wants = wants_.load(std::memory_order_relaxed);
        if ((wants & asleep::kUnfinished) != 0) return true;
        if ((wants & asleep::kForMessages) != 0 &&
            (has_slot(taken_.load(std::memory_order_relaxed)) || has_verdict())) {
            return true;
        }
        return (wants & asleep::kForRoom) != 0 &&
               theirs_.consumed_slots.load(std::memory_order_relaxed) !=
                   seen_.load(std::memory_order_relaxed);
    }

    // The stepper.
    // Slots of the peer's ring that were taken.
    [[nodiscard]] std::uint64_t taken() const { return taken_.load(std::memory_order_relaxed); }
    void set_taken(std::uint64_t taken) { taken_.store(taken, std::memory_order_relaxed); }
    [[nodiscard]] bool has_slot(std::uint64_t number) const {
        // acquire: pairs with the release in Stream::publish().
        return theirs_.slots[number % kSlots].word.load(std::memory_order_acquire) >> 16U ==
               number + 1;
    }
    [[nodiscard]] bool has_verdict() const {
        return theirs_.verdict.load(std::memory_order_relaxed) != 0;
    }
    // What this end would be woken for; room: more than there was when the peer had taken `seen`.
    // True: a thread sleeps that has missed it.
    [[nodiscard]] bool want(std::uint32_t wants, std::uint64_t seen) {
        seen_.store(seen, std::memory_order_relaxed);
        // release: pairs with doze().
        if (wants_.exchange(wants, std::memory_order_acq_rel) == wants) return false;
        // Pairs with the fence in sleep_for(): see doze().
        full_fence();
        if (mine_.asleep.load(std::memory_order_relaxed) == 0) return false;
        sleep_for(wants);
        return has_news();
    }

    // The peer begins to touch nothing of this side any more.
    void close() {
        // seq_cst, as the exchange and the loads in Stream::touch() and place_message(): of the
        // peer that sets its hazard and looks at these, and of this side, one sees the other's.
        mine_.closing.store(1, std::memory_order_seq_cst);
        for (Posted& receive : mine_.posted) receive.stamp.store(0, std::memory_order_relaxed);
        full_fence();
    }
    // ... and has let go of what it had. A moment is as long as a copy takes.
    [[nodiscard]] bool is_quiet() const {
        for (int i = 0; i < 300; ++i) {
            if (theirs_.hazard.load(std::memory_order_seq_cst) == 0) return true;
            if (i >= 200) std::this_thread::yield();
        }
        return false;
    }

private:
    void sleep_for(std::uint32_t wants) const {
        mine_.asleep.store(asleep::kAsleep | wants, std::memory_order_relaxed);
        // Pairs with the fence in Stream::wake(): either that side sees the sleep, or this one sees
        // what it stored before.
        full_fence();
    }

    const std::shared_ptr<Segment> segment_;
    Side& mine_;
    Side& theirs_;
    // Written by the stepper; other threads look whether a step is worth while, and a stale value
    // costs one, or is put right by the step that goes on.
    std::atomic<std::uint64_t> taken_{0};
    std::atomic<std::uint64_t> seen_{0};
    std::atomic<std::uint32_t> wants_{asleep::kForMessages};
};

}  // namespace ndv::direct

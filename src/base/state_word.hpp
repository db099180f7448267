// SPDX-License-Identifier: Apache-2.0
// The state word of one connection: the thread that turns it from idle to stepping owns the
// connection until it turns it back. A request made while another thread steps turns stepping into
// stepping-and-more, and the owner then cannot leave without another round: no request is lost.
#pragma once

#include <atomic>
#include <cstdint>

namespace ndv::base {

class StateWord {
public:
    // True: the caller owns the connection and must step, then leave(). False: another thread
    // does, and will step once more on our behalf.
    [[nodiscard]] bool enter() {
        std::uint32_t seen = word_.load(std::memory_order_relaxed);
        while (true) {
            if (seen == kIdle) {
                // acquire: pairs with the release in leave(); release: what the caller published
                // before entering is visible to the thread that observes the word.
                if (word_.compare_exchange_weak(seen, kStepping, std::memory_order_acq_rel,
                                                std::memory_order_relaxed)) {
                    return true;
                }
            } else {
                // Also when it already says "more": the exchange publishes our request.
                // release: pairs with the acquire in leave().
                if (word_.compare_exchange_weak(seen, kMore, std::memory_order_acq_rel,
                                                std::memory_order_relaxed)) {
                    return false;
                }
            }
        }
    }

    // As enter(), and without a request where another thread steps.
    [[nodiscard]] bool try_enter() {
        std::uint32_t expected = kIdle;
        // acquire: as in enter().
        return word_.compare_exchange_strong(expected, kStepping, std::memory_order_acquire,
                                             std::memory_order_relaxed);
    }

    // True: left. False: a thread asked for more; the caller still owns it and steps again.
    [[nodiscard]] bool leave() {
        std::uint32_t expected = kStepping;
        // release: pairs with the acquire in enter() of the next owner. seq_cst: see is_idle().
        if (word_.compare_exchange_strong(expected, kIdle, std::memory_order_seq_cst,
                                          std::memory_order_acquire)) {
            return true;
        }
        // acquire: sees what the requester published before it said "more".
        word_.exchange(kStepping, std::memory_order_acq_rel);
        return false;
    }

    // seq_cst: of a thread that stores and then asks this, and one that leaves and then loads, both
    // seq_cst, one sees the other.
    [[nodiscard]] bool is_idle() const { return word_.load(std::memory_order_seq_cst) == kIdle; }

private:
    static constexpr std::uint32_t kIdle = 0;
    static constexpr std::uint32_t kStepping = 1;
    static constexpr std::uint32_t kMore = 2;
    std::atomic<std::uint32_t> word_{kIdle};
};

}  // namespace ndv::base

// SPDX-License-Identifier: Apache-2.0
// Mutual exclusion that a callback may ask for on the very thread that holds it: request() never
// waits, but leaves the holder with one more round to do before it can leave. clang's analysis has
// no words for that, so what a gate guards is said in comments.
#pragma once

#include <atomic>
#include <cstdint>

namespace ndv::stream {

class Gate {
public:
    // Waits for the holder, which holds it for microseconds.
    void enter() {
        std::uint32_t seen = kFree;
        // acquire: pairs with the release in try_leave().
        while (!word_.compare_exchange_weak(seen, kHeld, std::memory_order_acquire,
                                            std::memory_order_relaxed)) {
            if (seen == kFree) continue;
            // seq_cst, here and in try_leave(): either the holder sees the waiter, or we its leave.
            waiters_.fetch_add(1, std::memory_order_seq_cst);
            word_.wait(seen, std::memory_order_seq_cst);
            waiters_.fetch_sub(1, std::memory_order_relaxed);
            seen = kFree;
        }
    }

    // True: entered. False: the holder will see to it, because it cannot leave before.
    [[nodiscard]] bool request() {
        std::uint32_t seen = word_.load(std::memory_order_relaxed);
        while (true) {
            const bool is_free = seen == kFree;
            // release: what the caller published before is visible to the holder's next round.
            if (word_.compare_exchange_weak(seen, is_free ? kHeld : kDue, std::memory_order_acq_rel,
                                            std::memory_order_relaxed)) {
                return is_free;
            }
        }
    }

    // True: left. False: something was requested; do it and try again.
    [[nodiscard]] bool try_leave() {
        std::uint32_t expected = kHeld;
        if (word_.compare_exchange_strong(expected, kFree, std::memory_order_seq_cst,
                                          std::memory_order_acquire)) {
            if (waiters_.load(std::memory_order_seq_cst) > 0) word_.notify_one();
            return true;
        }
        // acquire: pairs with the release of every request() so far; one that comes later finds
        // kHeld and makes it kDue again.
        static_cast<void>(word_.exchange(kHeld, std::memory_order_acquire));
        return false;
    }

private:
    static constexpr std::uint32_t kFree = 0;
    static constexpr std::uint32_t kHeld = 1;
    static constexpr std::uint32_t kDue = 2;
    std::atomic<std::uint32_t> word_{kFree};
    std::atomic<std::uint32_t> waiters_{0};
};

}  // namespace ndv::stream

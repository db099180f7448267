// SPDX-License-Identifier: Apache-2.0
// Fences, for the thread sanitizer as well, which knows none.
#pragma once

#include <atomic>

namespace ndv::direct {

// What this thread stored before is seen by a thread whose own full fence comes later, and the
// other way round: of two that store and then look at each other's store, one sees.
inline void full_fence() {
#if defined(__SANITIZE_THREAD__)
    static std::atomic<unsigned> order{0};
    order.fetch_add(1, std::memory_order_seq_cst);
#else
    std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
}

// A program that spins on memory sees what was stored before what it spins on. Not for the thread
// sanitizer: such programs have no other half of it.
inline void store_fence() {
#if !defined(__SANITIZE_THREAD__)
    std::atomic_thread_fence(std::memory_order_release);
#endif
}

}  // namespace ndv::direct

// SPDX-License-Identifier: Apache-2.0
// Moves the positions of a SpscCursor, so that tests reach the wrap through 2^32 at once. An
// explicit template instantiation may name private members; that is the whole trick.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/ring.hpp"

namespace ndv::testing {

using Position = std::atomic<std::uint32_t> base::SpscCursor::*;
Position tail_member();
Position head_member();

template <Position kTail, Position kHead>
struct CursorMembers {
    friend Position tail_member() { return kTail; }
    friend Position head_member() { return kHead; }
};
template struct CursorMembers<&base::SpscCursor::tail_, &base::SpscCursor::head_>;

// The queue is empty and starts at `position`. Before any thread uses it.
inline void set_position(base::SpscCursor& cursor, std::uint32_t position) {
    (cursor.*tail_member()).store(position, std::memory_order_relaxed);
    (cursor.*head_member()).store(position, std::memory_order_relaxed);
}

}  // namespace ndv::testing

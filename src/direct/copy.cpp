// SPDX-License-Identifier: Apache-2.0
// The order in which bytes get to their place.
#include "direct/copy.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "direct/fence.hpp"

namespace ndv::direct {
namespace {

using Word = std::uint64_t;

}  // namespace

void place(std::byte* to, const std::byte* from, std::size_t size) {
    if (size < sizeof(Word)) {
        std::memcpy(to, from, size);
    } else {
        const std::size_t before = size - sizeof(Word);
        if (before > 0) {
            std::memmove(to, from, before);  // two ends may name the same memory
            store_fence();
        }
        // One store, so that an aligned word is never seen half written.
        Word last = 0;
        std::memcpy(&last, from + before, sizeof last);
        std::memcpy(to + before, &last, sizeof last);
    }
    store_fence();
}

std::size_t place(Pieces to, Pieces from) {
    std::size_t moved = 0;
    while (to.count > 0 && from.count > 0) {
        const std::size_t size =
            std::min(to.list->iov_len - to.done, from.list->iov_len - from.done);
        if (size > 0) {
            place(static_cast<std::byte*>(to.list->iov_base) + to.done,
                  static_cast<const std::byte*>(from.list->iov_base) + from.done, size);
        }
        moved += size;
        for (Pieces* const pieces : {&to, &from}) {
            pieces->done += size;
            if (pieces->done < pieces->list->iov_len) continue;
            ++pieces->list;
            --pieces->count;
            pieces->done = 0;
        }
    }
    return moved;
}

}  // namespace ndv::direct

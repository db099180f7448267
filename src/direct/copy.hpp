// SPDX-License-Identifier: Apache-2.0
// Copies into memory that another program may be looking at.
#pragma once

#include <sys/uio.h>

#include <cstddef>

namespace ndv::direct {

// From the low address up, and the last bytes behind all others: a program that polls the last one
// sees all of it.
void place(std::byte* to, const std::byte* from, std::size_t size);

// A cursor over the pieces of a list.
struct Pieces {
    const iovec* list;
    std::size_t count;
    std::size_t done = 0;  // bytes of the first one
};

// Copies what both lists have, piece by piece in order. Returns the bytes.
std::size_t place(Pieces to, Pieces from);

}  // namespace ndv::direct

// SPDX-License-Identifier: Apache-2.0
// Keys: what they reach, and for whom. Everything here runs with the world's mutex.
#pragma once

#include <span>

#include "objects.hpp"

namespace ndv::doubles {

struct Piece {
    std::byte* data;
    std::uint64_t size;
};

// As many bytes as there are; the sink has room.
void copy(const std::vector<Piece>& source, const std::vector<Piece>& sink);

// Null: not with this key, in this domain, with these rights.
[[nodiscard]] std::byte* find_local(Device& device, const ibv_pd& pd, const ibv_sge& piece,
                                    int rights);
[[nodiscard]] std::byte* find_remote(QueuePair& responder, std::uint32_t key, std::uint64_t address,
                                     std::uint64_t length, int right);

// Requests about windows of type 2B; false: the state of things forbids it.
[[nodiscard]] bool bind(QueuePair& qp, const ibv_send_wr& wr);
[[nodiscard]] bool invalidate(Device& device, const ibv_pd& pd, std::uint32_t key,
                              std::uint32_t qp_num);
// The window is empty.
void unbind(MemoryWindow& window);

}  // namespace ndv::doubles

// SPDX-License-Identifier: Apache-2.0
// Lines of a peer's table, and places of its memory.
#include "providers/soft/far_reach.hpp"

namespace ndv::soft {

using direct::Grip;
using direct::Way;

const SharedLine& FarReach::line_of(std::uint32_t token) {
    if (line_ == nullptr || token != token_) {
        token_ = token;
        line_ = &peer_->line(token, hazard_);
    }
    return *line_;
}

std::uint64_t FarReach::hazard(std::uint32_t token) {
    static_cast<void>(line_of(token));
    return hazard_;
}

iwarp::AccessResult FarReach::take(std::uint32_t token, std::uint64_t address, std::uint32_t length,
                                   iwarp::RemoteRight right, Grip& out) {
    Place found;
    const iwarp::AccessResult result = look_up(token, address, length, right, found);
    if (result == iwarp::AccessResult::granted) grip(found.where, found.offset, length, out);
    return result;
}

std::byte* FarReach::find(std::uint32_t token, std::uint64_t address, std::uint32_t length,
                          iwarp::RemoteRight right) {
    Place found;
    if (look_up(token, address, length, right, found) != iwarp::AccessResult::granted ||
        found.where == place::kNowhere || (found.where & place::kInArena) == 0) {
        return nullptr;
    }
    return peer_->in_arena((found.where & ~place::kInArena) + found.offset, length);
}

iwarp::AccessResult FarReach::look_up(std::uint32_t token, std::uint64_t address,
                                      std::uint32_t length, iwarp::RemoteRight right, Place& out) {
    const SharedLine& line = line_of(token);
    // acquire: pairs with the release in MemoryTable::show(). seq_cst: with hide(), see there.
    if (line.live.load(std::memory_order_seq_cst) != (SharedLine::kLive | token)) {
        return iwarp::AccessResult::invalid_stag;
    }
    const iwarp::AccessResult result =
        check_access(line, line.is_window != 0, domain_, queue_pair_, address, length, right);
    out.where = line.where;
    out.offset = address - line.address;
    // A step of the peer does not wait for the hazard before it uses the line again.
    if (line.live.load(std::memory_order_seq_cst) != (SharedLine::kLive | token)) {
        return iwarp::AccessResult::invalid_stag;
    }
    return result;
}

bool FarReach::take_receive(std::uint64_t where, std::uint32_t length, Grip& out) {
    grip(where, 0, length, out);
    return out.way != Way::carried;
}

void FarReach::grip(std::uint64_t where, std::uint64_t offset, std::uint32_t length,
                    Grip& out) const {
    out.way = Way::carried;
    if (where == place::kNowhere) return;
    const bool is_in_arena = (where & place::kInArena) != 0;
    out.pin.offset = (where & ~place::kInArena) + offset;
    if (is_in_arena) {
        if (peer_->open_arena(out.pin.offset, length)) out.way = Way::loads;
    } else if (peer_->can_call()) {
        out.way = Way::calls;
    }
}

std::size_t FarReach::pieces(const Grip& grip, std::size_t offset, std::size_t length, iovec* out,
                             std::size_t max) {
    std::size_t count = 0;
    for (std::size_t done = 0; done < length && count < max; ++count) {
        out[count] = peer_->part_of_arena(grip.pin.offset + offset + done, length - done);
        done += out[count].iov_len;
    }
    return count;
}

}  // namespace ndv::soft

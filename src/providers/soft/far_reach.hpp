// SPDX-License-Identifier: Apache-2.0
// The memory of a peer in another process, by what both share of it.
#pragma once

#include <memory>
#include <utility>

#include "direct/reach.hpp"
#include "providers/soft/memory_table.hpp"
#include "providers/soft/peer_process.hpp"

namespace ndv::soft {

class FarReach final : public direct::Reach {
public:
    // As the peer's queue pair in its domain; `own` is the table of this end.
    FarReach(std::shared_ptr<PeerProcess> peer, std::uint64_t domain, std::uint64_t queue_pair,
             std::shared_ptr<const MemoryTable> own)
        : peer_(std::move(peer)), domain_(domain), queue_pair_(queue_pair), own_(std::move(own)) {}

    [[nodiscard]] std::uint64_t hazard(std::uint32_t token) override;
    [[nodiscard]] iwarp::AccessResult take(std::uint32_t token, std::uint64_t address,
                                           std::uint32_t length, iwarp::RemoteRight right,
                                           direct::Grip& out) override;
    [[nodiscard]] std::byte* find(std::uint32_t token, std::uint64_t address, std::uint32_t length,
                                  iwarp::RemoteRight right) override;
    [[nodiscard]] bool take_receive(std::uint64_t where, std::uint32_t length,
                                    direct::Grip& out) override;
    void let_go(const direct::Grip&) override {}
    [[nodiscard]] std::size_t pieces(const direct::Grip& grip, std::size_t offset,
                                     std::size_t length, iovec* out, std::size_t max) override;
    [[nodiscard]] std::size_t call(const direct::Grip& grip, std::size_t offset,
                                   iwarp::RemoteRight right, const iovec* ours,
                                   std::size_t count) override {
        return peer_->call(grip.pin.offset + offset, right, ours, count);
    }
    [[nodiscard]] std::uint64_t place_of(const std::byte* data, std::size_t size) override {
        return own_->place_of(data, size);
    }

private:
    [[nodiscard]] const SharedLine& line_of(std::uint32_t token);
    struct Place {
        std::uint64_t where = 0;  // of the first byte that the token names
        std::uint64_t offset = 0;
    };
    [[nodiscard]] iwarp::AccessResult look_up(std::uint32_t token, std::uint64_t address,
                                              std::uint32_t length, iwarp::RemoteRight right,
                                              Place& out);
    // How the peer's memory at that place is reached.
    void grip(std::uint64_t where, std::uint64_t offset, std::uint32_t length,
              direct::Grip& out) const;

    const std::shared_ptr<PeerProcess> peer_;
    const std::uint64_t domain_;
    const std::uint64_t queue_pair_;
    const std::shared_ptr<const MemoryTable> own_;
    // Of the token that was looked up last, as MemoryTable::Memo.
    const SharedLine* line_ = nullptr;
    std::uint64_t hazard_ = 0;
    std::uint32_t token_ = 0;
};

}  // namespace ndv::soft

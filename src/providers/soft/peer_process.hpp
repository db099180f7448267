// SPDX-License-Identifier: Apache-2.0
// An adapter of another process of this host and user: its life, its memory table and arena as this
// process maps them, and the memory that only the kernel reaches.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include "base/descriptor.hpp"
#include "base/mutex.hpp"
#include "base/shared_memory.hpp"
#include "iwarp/remote_memory.hpp"
#include "providers/soft/memory_table.hpp"

namespace ndv::soft {

using AdapterId = std::array<std::uint64_t, 2>;  // random

// What an adapter tells a peer of itself.
struct Introduction {
    AdapterId id{};
    std::uint64_t id_at = 0;  // address of `id` there, to try calls on
    std::uint64_t domain = 0;
    std::uint64_t queue_pair = 0;
};

class PeerProcess {
public:
    // Of the file of an arena, mapped at once: addresses, of which `chunks_` has a word each.
    static constexpr std::size_t kChunk = std::size_t{1} << 30U;

    // Null: something is not what it should be, or there is no memory. `hangs_up` is readable when
    // the peer has gone; for where its number is not known here.
    [[nodiscard]] static std::shared_ptr<PeerProcess> meet(const Introduction& peer, pid_t pid,
                                                           base::Descriptor table,
                                                           base::Descriptor arena,
                                                           base::Descriptor hangs_up,
                                                           bool may_call);
    explicit PeerProcess(pid_t pid) : pid_(pid) {}

    [[nodiscard]] bool is(pid_t pid) const { return pid == pid_; }
    // Its life is seen by itself, not by the connection that met it.
    [[nodiscard]] bool has_pidfd() const { return has_pidfd_; }
    // None of its instructions runs any more: false.
    [[nodiscard]] bool lives() const;
    // Whether the kernel copies for us.
    [[nodiscard]] bool can_call() const { return can_call_.load(std::memory_order_relaxed); }
    [[nodiscard]] const SharedLine& line(std::uint32_t token, std::uint64_t& hazard) const;

    // Maps this part of its arena, where it is not mapped yet. False: there is no room.
    [[nodiscard]] bool open_arena(std::uint64_t offset, std::uint64_t size);
    // Of what was opened, in one piece up to `left`.
    [[nodiscard]] iovec part_of_arena(std::uint64_t offset, std::size_t left) const;
    // Where that part is, opened or not; null where it is not in one piece.
    [[nodiscard]] std::byte* in_arena(std::uint64_t offset, std::uint64_t size) const {
        const std::uint64_t at = offset % kChunk;
        if (offset >= Arena::kSize || size > kChunk - at) return nullptr;
        std::byte* const chunk = chunks_[offset / kChunk].load(std::memory_order_acquire);
        return chunk == nullptr ? nullptr : chunk + at;
    }
    // Moves all of `ours` to or from `address` there. Less: no more calls, from now on.
    [[nodiscard]] std::size_t call(std::uint64_t address, iwarp::RemoteRight right,
                                   const iovec* ours, std::size_t count);

private:
    void try_calls(const Introduction& peer);
    [[nodiscard]] ssize_t copy(std::uint64_t address, bool is_write, const iovec* ours,
                               std::size_t count, std::size_t size) const;

    const pid_t pid_;
    bool has_pidfd_ = false;
    base::Descriptor life_;
    base::Descriptor memory_;  // /proc/PID/mem, which is of its address space for good
    std::uint64_t id_at_ = 0;
    base::Descriptor arena_file_;
    base::FileMapping table_;
    std::unique_ptr<TokenPermutation> permutation_;
    // relaxed: a request that comes late to know makes one call more.
    std::atomic<bool> can_call_{false};

    // acquire and release: the mapping is there.
    std::array<std::atomic<std::byte*>, Arena::kSize / kChunk> chunks_{};
    base::Mutex mutex_;
    std::map<std::size_t, base::FileMapping> mapped_ NDV_GUARDED_BY(mutex_);
};

// Those that the connections of one adapter have met.
class PeerProcesses {
public:
    [[nodiscard]] std::shared_ptr<PeerProcess> meet(const Introduction& peer, pid_t pid,
                                                    base::Descriptor table, base::Descriptor arena,
                                                    base::Descriptor hangs_up, bool may_call);

private:
    base::Mutex mutex_;
    std::map<AdapterId, std::weak_ptr<PeerProcess>> known_ NDV_GUARDED_BY(mutex_);
};

}  // namespace ndv::soft

// SPDX-License-Identifier: Apache-2.0
// pidfd, process_vm_readv and /proc/PID/mem.
#include "providers/soft/peer_process.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

namespace ndv::soft {
namespace {

// Up to here a file is the cheaper call.
constexpr std::size_t kSmallCall = 4096;

#if !defined(SYS_pidfd_open)
constexpr long SYS_pidfd_open = 434;  // Linux 5.3, all architectures
#endif

}  // namespace

std::shared_ptr<PeerProcess> PeerProcess::meet(const Introduction& peer, pid_t pid,
                                               base::Descriptor table, base::Descriptor arena,
                                               base::Descriptor hangs_up, bool may_call) {
    if (!base::is_memory_file(table.get(), sizeof(SharedTable)) ||
        !base::is_memory_file(arena.get(), Arena::kSize)) {
        return nullptr;
    }
    auto made = std::make_shared<PeerProcess>(pid);
    made->table_ = base::FileMapping::map(table.get(), 0, sizeof(SharedTable), false);
    if (!made->table_) return nullptr;
    made->arena_file_ = std::move(arena);
    made->permutation_ = std::make_unique<TokenPermutation>(
        reinterpret_cast<const SharedTable*>(made->table_.data())->key);
    if (pid > 0)
        made->life_ = base::Descriptor(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    made->has_pidfd_ = static_cast<bool>(made->life_);
    if (!made->has_pidfd_) made->life_ = std::move(hangs_up);
    if (may_call) made->try_calls(peer);
    return made;
}

// A process that has the adapter's number where the peer says is the peer, whatever the number of
// the process means here.
void PeerProcess::try_calls(const Introduction& peer) {
    if (pid_ <= 0) return;
    AdapterId found{};
    const iovec ours{found.data(), sizeof found};
    const iovec theirs{reinterpret_cast<void*>(peer.id_at), sizeof found};
    if (::process_vm_readv(pid_, &ours, 1, &theirs, 1, 0) != sizeof found || found != peer.id) {
        return;
    }
    const std::string path = "/proc/" + std::to_string(pid_) + "/mem";
    id_at_ = peer.id_at;
    memory_ = base::Descriptor(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    can_call_.store(true, std::memory_order_relaxed);
}

// A call that fails, as where a signal comes, says nothing: memory is given back for a death alone.
bool PeerProcess::lives() const {
    // Of a socket, only that the other end has closed.
    pollfd life{life_.get(), static_cast<short>(has_pidfd_ ? POLLIN : 0), 0};
    return ::poll(&life, 1, 0) <= 0;
}

const SharedLine& PeerProcess::line(std::uint32_t token, std::uint64_t& hazard) const {
    const std::uint32_t slot = permutation_->number(token) % MemoryTable::kSlots;
    hazard = MemoryTable::hazard_of(slot);
    return reinterpret_cast<const SharedTable*>(table_.data())->lines[slot];
}

bool PeerProcess::open_arena(std::uint64_t offset, std::uint64_t size) {
    if (offset > Arena::kSize || size > Arena::kSize - offset) return false;
    if (size == 0) return true;
    const std::size_t last = (offset + size - 1) / kChunk;
    for (std::size_t chunk = offset / kChunk; chunk <= last; ++chunk) {
        if (chunks_[chunk].load(std::memory_order_acquire) != nullptr) continue;
        const base::Lock lock(mutex_);
        base::FileMapping& mapping = mapped_[chunk];
        if (!mapping) {
            mapping = base::FileMapping::map(arena_file_.get(), chunk * kChunk, kChunk, true);
        }
        if (!mapping) return false;
        chunks_[chunk].store(mapping.data(), std::memory_order_release);
    }
    return true;
}

iovec PeerProcess::part_of_arena(std::uint64_t offset, std::size_t left) const {
    const std::size_t at = offset % kChunk;
    return {chunks_[offset / kChunk].load(std::memory_order_acquire) + at,
            std::min(left, kChunk - at)};
}

ssize_t PeerProcess::copy(std::uint64_t address, bool is_write, const iovec* ours,
                          std::size_t count, std::size_t size) const {
    const auto pieces = static_cast<int>(count);
    if (size <= kSmallCall && memory_) {
        const auto at = static_cast<off_t>(address);
        return is_write ? ::pwritev(memory_.get(), ours, pieces, at)
                        : ::preadv(memory_.get(), ours, pieces, at);
    }
    // Of another program in the same process this is not the memory. (A copy costs far more.)
    AdapterId found{};
    if (memory_ && ::pread(memory_.get(), &found, sizeof found, static_cast<off_t>(id_at_)) !=
                       static_cast<ssize_t>(sizeof found)) {
        errno = ESRCH;
        return -1;
    }
    const iovec theirs{reinterpret_cast<void*>(address), size};
    return is_write ? ::process_vm_writev(pid_, ours, count, &theirs, 1, 0)
                    : ::process_vm_readv(pid_, ours, count, &theirs, 1, 0);
}

std::size_t PeerProcess::call(std::uint64_t address, iwarp::RemoteRight right, const iovec* ours,
                              std::size_t count) {
    std::size_t size = 0;
    for (std::size_t i = 0; i < count; ++i) size += ours[i].iov_len;
    const bool is_write = right == iwarp::RemoteRight::write;
    const ssize_t moved = can_call() ? copy(address, is_write, ours, count, size) : -1;
    // Alive after is alive meanwhile: the number was that of the peer. (If it dies, is reaped, and
    // all numbers come round within one call, the copy has gone astray.)
    if (moved == static_cast<ssize_t>(size) && (size <= kSmallCall || lives())) return size;
    // For a page that is missing there the peer shall see to that itself.
    if (moved < 0 && (errno == EPERM || errno == ESRCH || errno == ENOSYS || errno == EACCES)) {
        can_call_.store(false, std::memory_order_relaxed);
    }
    return 0;
}

std::shared_ptr<PeerProcess> PeerProcesses::meet(const Introduction& peer, pid_t pid,
                                                 base::Descriptor table, base::Descriptor arena,
                                                 base::Descriptor hangs_up, bool may_call) {
    const base::Lock lock(mutex_);
    std::erase_if(known_, [](const auto& one) { return one.second.expired(); });
    const auto known = known_.find(peer.id);
    auto found = known == known_.end() ? nullptr : known->second.lock();
    if (found && found->is(pid)) return found;
    auto made = PeerProcess::meet(peer, pid, std::move(table), std::move(arena),
                                  std::move(hangs_up), may_call);
    // One whose life is seen by the end of a connection is that connection's alone.
    if (made && made->has_pidfd()) known_[peer.id] = made;
    return made;
}

}  // namespace ndv::soft

// SPDX-License-Identifier: Apache-2.0
// Looking keys up, and the calls that make regions and windows.
#include "memory.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace ndv::doubles {
namespace {

bool contains(std::uint64_t begin, std::uint64_t size, std::uint64_t address,
              std::uint64_t length) {
    return address >= begin && length <= size && address - begin <= size - length;
}

std::byte* data_of(const MemoryRegion& region, std::uint64_t address) {
    return static_cast<std::byte*>(region.addr) + (address - region.named);
}

}  // namespace

void copy(const std::vector<Piece>& source, const std::vector<Piece>& sink) {
    std::size_t to = 0;
    std::uint64_t filled = 0;
    for (const Piece& from : source) {
        std::uint64_t done = 0;
        while (done < from.size) {
            if (filled == sink[to].size) {
                ++to;
                filled = 0;
            }
            const std::uint64_t count = std::min(from.size - done, sink[to].size - filled);
            std::memmove(sink[to].data + filled, from.data + done, count);
            done += count;
            filled += count;
        }
    }
}

std::byte* find_local(Device& device, const ibv_pd& pd, const ibv_sge& piece, int rights) {
    const auto found = device.regions.find(piece.lkey);
    if (found == device.regions.end()) return nullptr;
    const MemoryRegion& region = *found->second;
    if (region.pd != &pd || (region.access & rights) != rights ||
        !contains(region.named, region.length, piece.addr, piece.length)) {
        return nullptr;
    }
    return data_of(region, piece.addr);
}

std::byte* find_remote(QueuePair& responder, std::uint32_t key, std::uint64_t address,
                       std::uint64_t length, int right) {
    if ((responder.attributes.qp_access_flags & static_cast<unsigned>(right)) == 0) return nullptr;
    Device& device = *responder.device;
    if (const auto found = device.regions.find(key); found != device.regions.end()) {
        const MemoryRegion& region = *found->second;
        if (region.pd != responder.pd || (region.access & right) == 0 ||
            !contains(region.named, region.length, address, length)) {
            return nullptr;
        }
        return data_of(region, address);
    }
    const auto found = device.windows.find(key >> 8U);
    if (found == device.windows.end()) return nullptr;
    const MemoryWindow& window = *found->second;
    // A window of type 2B serves the queue pair that it was bound by.
    if (!window.is_valid || window.rkey != key || window.qp_num != responder.qp_num ||
        (window.access & right) == 0 || !contains(window.address, window.size, address, length)) {
        return nullptr;
    }
    return data_of(*window.region, address);
}

bool bind(QueuePair& qp, const ibv_send_wr& wr) {
    auto& window = static_cast<MemoryWindow&>(*wr.bind_mw.mw);
    auto& region = static_cast<MemoryRegion&>(*wr.bind_mw.bind_info.mr);
    const auto& info = wr.bind_mw.bind_info;
    const bool is_written =
        (info.mw_access_flags & (IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC)) != 0;
    if (window.is_valid || window.pd != qp.pd || region.pd != qp.pd ||
        wr.bind_mw.rkey >> 8U != window.number || (region.access & IBV_ACCESS_MW_BIND) == 0 ||
        (is_written && (region.access & IBV_ACCESS_LOCAL_WRITE) == 0) ||
        !contains(region.named, region.length, info.addr, info.length)) {
        return false;
    }
    window.is_valid = true;
    window.rkey = wr.bind_mw.rkey;
    window.region = &region;
    window.address = info.addr;
    window.size = info.length;
    window.access = static_cast<int>(info.mw_access_flags);
    window.qp_num = qp.qp_num;
    ++region.windows;
    return true;
}

bool invalidate(Device& device, const ibv_pd& pd, std::uint32_t key, std::uint32_t qp_num) {
    const auto found = device.windows.find(key >> 8U);
    if (found == device.windows.end()) return false;
    MemoryWindow& window = *found->second;
    if (!window.is_valid || window.rkey != key || window.pd != &pd || window.qp_num != qp_num) {
        return false;
    }
    unbind(window);
    return true;
}

void unbind(MemoryWindow& window) {
    if (!window.is_valid) return;
    window.is_valid = false;
    --window.region->windows;
}

}  // namespace ndv::doubles

// ---- calls ----------------------------------------------------------------------------------

using namespace ndv::doubles;

namespace {

std::uint32_t unused_number(const Device& device) {
    static std::uint32_t next = 0x1000;
    while (device.windows.contains(next) || device.regions.contains(next << 8U)) {
        next = (next + 1) & 0x3FFFFF;
    }
    return next++;
}

ibv_mr* register_memory(const char* call, ibv_pd* pd, void* address, std::size_t length,
                        std::uint64_t named, int access) {
    if (const int failed = world().refusal(call); failed != 0) {
        errno = failed;
        return nullptr;
    }
    const Lock lock(world().mutex);
    Device& device = context_of(pd->context).owner;
    const int writes = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC;
    if (device.is_removed || ((access & writes) != 0 && (access & IBV_ACCESS_LOCAL_WRITE) == 0)) {
        errno = device.is_removed ? EIO : EINVAL;
        return nullptr;
    }
    auto* const made = new MemoryRegion{};
    made->context = pd->context;
    made->pd = pd;
    made->addr = address;
    made->length = length;
    made->named = named;
    made->access = access;
    made->lkey = made->rkey = unused_number(device) << 8U;
    device.regions[made->lkey] = made;
    ++static_cast<Domain*>(pd)->users;
    ++world().live["mr"];
    return made;
}

}  // namespace

extern "C" {

ibv_mr* ibv_reg_mr(ibv_pd* pd, void* address, std::size_t length, int access) {
    return register_memory("ibv_reg_mr", pd, address, length,
                           reinterpret_cast<std::uint64_t>(address), access);
}

ibv_mr* ibv_reg_mr_iova(ibv_pd* pd, void* address, std::size_t length, std::uint64_t named,
                        int access) {
    return register_memory("ibv_reg_mr_iova", pd, address, length, named, access);
}

int ibv_dereg_mr(ibv_mr* mr) {
    if (const int failed = world().refusal("ibv_dereg_mr"); failed != 0) return failed;
    auto* const gone = static_cast<MemoryRegion*>(mr);
    const Lock lock(world().mutex);
    Device& device = context_of(mr->context).owner;
    if (!device.is_removed && gone->windows > 0) return EBUSY;
    device.regions.erase(mr->lkey);
    --static_cast<Domain*>(mr->pd)->users;
    --world().live["mr"];
    if (device.is_removed) {
        world().abandoned.emplace_back(gone);
        return EIO;
    }
    delete gone;
    return 0;
}

}  // extern "C"

namespace ndv::doubles {

ibv_mw* alloc_mw(ibv_pd* pd, ibv_mw_type type) {
    if (const int failed = world().refusal("ibv_alloc_mw"); failed != 0) {
        errno = failed;
        return nullptr;
    }
    const Lock lock(world().mutex);
    Device& device = context_of(pd->context).owner;
    if (device.is_removed || !device.profile.has_windows || type != IBV_MW_TYPE_2) {
        errno = device.is_removed ? EIO : EOPNOTSUPP;
        return nullptr;
    }
    auto* const made = new MemoryWindow{};
    made->context = pd->context;
    made->pd = pd;
    made->type = type;
    made->number = unused_number(device);
    made->rkey = made->number << 8U;
    device.windows[made->number] = made;
    ++static_cast<Domain*>(pd)->users;
    ++world().live["mw"];
    return made;
}

int dealloc_mw(ibv_mw* mw) {
    if (const int failed = world().refusal("ibv_dealloc_mw"); failed != 0) return failed;
    auto* const gone = static_cast<MemoryWindow*>(mw);
    const Lock lock(world().mutex);
    Device& device = context_of(mw->context).owner;
    unbind(*gone);
    device.windows.erase(gone->number);
    --static_cast<Domain*>(mw->pd)->users;
    --world().live["mw"];
    if (device.is_removed) {
        world().abandoned.emplace_back(gone);
        return EIO;
    }
    delete gone;
    return 0;
}

}  // namespace ndv::doubles

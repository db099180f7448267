// SPDX-License-Identifier: Apache-2.0
// Lookups of local memory, and tokens.
#include "providers/verbs/local_memory.hpp"

#include "providers/verbs/logical_memory.hpp"
#include "providers/verbs/mapping.hpp"

namespace ndv::verbs {
namespace {

bool contains(const LocalMemory::Region& region, const core::Segment& segment) {
    return segment.length <= region.size && segment.address >= region.address &&
           segment.address - region.address <= region.size - segment.length;
}

}  // namespace

Status LocalMemory::acquire(const core::Segment& segment, std::uint32_t rights,
                            core::LocalBuffer& out) {
    // acquire: pairs with privileged_token().
    if (segment.token != 0 && segment.token == privileged_.load(std::memory_order_acquire)) {
        return acquire_logical(segment, rights, out);
    }
    const base::Lock lock(mutex_);
    const auto found = regions_.find(segment.token);
    if (found == regions_.end()) return Status::access_violation;
    const Region& region = found->second;
    if ((region.rights & rights) != rights || !contains(region, segment)) {
        return Status::access_violation;
    }
    region.hold->add_reference();
    const std::uint64_t offset = segment.address - region.address;
    out.data = region.data + offset;
    if (region.host != nullptr) out.host = region.host + offset;
    out.length = static_cast<std::uint32_t>(segment.length);
    out.hold = region.hold;
    out.key = region.key;
    return Status::success;
}

Status LocalMemory::acquire_logical(const core::Segment& segment, std::uint32_t rights,
                                    core::LocalBuffer& out) {
    // A sink of Reads on iWARP has a remote right, which this token never gives.
    if ((rights & core::access::kRdmaReadSink) != 0) return Status::access_violation;
    const auto memory = lams_->find(segment.address);
    std::byte* const data =
        memory == nullptr ? nullptr : memory->at(segment.address, segment.length);
    const bool is_written = (rights & core::access::kLocalWrite) != 0;
    if (data == nullptr || (is_written && !memory->hold().is_writable())) {
        return Status::access_violation;
    }
    DeviceRegion* const region = memory->region_for(domain_);
    if (region == nullptr) return Status::insufficient_resources;
    out.data = data;
    out.length = static_cast<std::uint32_t>(segment.length);
    out.hold = region;  // with a reference that is the request's now
    out.key = region->get()->lkey;
    return Status::success;
}

bool LocalMemory::add(std::uint32_t token, const Region& region) {
    const base::Lock lock(mutex_);
    // relaxed: under the mutex that it is written under, as below.
    return token != privileged_.load(std::memory_order_relaxed) &&
           regions_.try_emplace(token, region).second;
}

std::uint32_t LocalMemory::unused_number() {
    std::uint32_t number = 0;
    do {
        number = lams_->next_number();
        // relaxed: as in add().
    } while (regions_.contains(number) || number == privileged_.load(std::memory_order_relaxed));
    return number;
}

std::uint32_t LocalMemory::add(const Region& region) {
    const base::Lock lock(mutex_);
    const std::uint32_t token = unused_number();
    regions_[token] = region;
    return token;
}

void LocalMemory::remove(std::uint32_t token) {
    const base::Lock lock(mutex_);
    regions_.erase(token);
}

std::uint32_t LocalMemory::privileged_token() {
    const base::Lock lock(mutex_);
    // release: pairs with acquire(). relaxed: as in add().
    if (privileged_.load(std::memory_order_relaxed) == 0) {
        privileged_.store(unused_number(), std::memory_order_release);
    }
    return privileged_.load(std::memory_order_relaxed);
}

void LocalMemory::add_remote(std::uint32_t token, Mapping& mapping) {
    const base::Lock lock(mutex_);
    remote_[token] = &mapping;
}

void LocalMemory::remove_remote(std::uint32_t token, const Mapping& mapping) {
    const base::Lock lock(mutex_);
    const auto found = remote_.find(token);
    if (found != remote_.end() && found->second == &mapping) remote_.erase(found);
}

void LocalMemory::invalidated_by_peer(std::uint32_t token) {
    Mapping* mapping = nullptr;
    {
        const base::Lock lock(mutex_);
        const auto found = remote_.find(token);
        if (found == remote_.end()) return;
        mapping = found->second;
        mapping->add_reference();
    }
    mapping->owner().invalidated_by_peer(*mapping);
    mapping->release();
}

}  // namespace ndv::verbs

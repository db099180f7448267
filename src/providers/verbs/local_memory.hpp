// SPDX-License-Identifier: Apache-2.0
// What the requests of one protection domain may name as local memory, and which tokens its
// fast-registered regions and windows have at the moment. Outlives the domain's front object while
// requests are under way.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>

#include "base/mutex.hpp"
#include "core/memory.hpp"
#include "providers/verbs/device.hpp"

namespace ndv::verbs {

class LamTable;
class Mapping;

class LocalMemory {
public:
    struct Region {
        core::BufferHold* hold = nullptr;  // what `add` is called by keeps it
        std::byte* data = nullptr;
        std::uint64_t address = 0;  // by which requests name the first byte
        std::uint64_t size = 0;
        std::uint32_t rights = 0;
        std::uint32_t key = 0;      // the device's
        std::byte* host = nullptr;  // not null: `data` is the device's address, and this our own
    };

    LocalMemory(std::shared_ptr<OwnedDomain> domain, std::shared_ptr<LamTable> lams)
        : domain_(std::move(domain)), lams_(std::move(lams)) {}

    [[nodiscard]] const std::shared_ptr<OwnedDomain>& domain() const { return domain_; }
    [[nodiscard]] const std::shared_ptr<LamTable>& lams() const { return lams_; }
    // Core's acquire_local().
    [[nodiscard]] Status acquire(const core::Segment& segment, std::uint32_t rights,
                                 core::LocalBuffer& out);

    // A region under the device's own number; false: a number of ours is the same.
    [[nodiscard]] bool add(std::uint32_t token, const Region& region);
    // A region under a number of ours, which no device key of this domain has; peers cannot use it.
    [[nodiscard]] std::uint32_t add(const Region& region);
    void remove(std::uint32_t token);
    [[nodiscard]] std::uint32_t privileged_token();

    // Remote tokens of what can be invalidated. A mapping is here from its posting to its end.
    void add_remote(std::uint32_t token, Mapping& mapping);
    void remove_remote(std::uint32_t token, const Mapping& mapping);
    // The device has executed a peer's invalidation.
    void invalidated_by_peer(std::uint32_t token);

private:
    [[nodiscard]] std::uint32_t unused_number() NDV_REQUIRES(mutex_);
    [[nodiscard]] Status acquire_logical(const core::Segment& segment, std::uint32_t rights,
                                         core::LocalBuffer& out);

    const std::shared_ptr<OwnedDomain> domain_;
    const std::shared_ptr<LamTable> lams_;
    base::Mutex mutex_;
    std::unordered_map<std::uint32_t, Region> regions_ NDV_GUARDED_BY(mutex_);
    std::unordered_map<std::uint32_t, Mapping*> remote_ NDV_GUARDED_BY(mutex_);
    // Written under the mutex, once.
    std::atomic<std::uint32_t> privileged_{0};
};

}  // namespace ndv::verbs

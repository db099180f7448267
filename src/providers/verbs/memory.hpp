// SPDX-License-Identifier: Apache-2.0
// Protection domains and memory regions of the verbs provider.
#pragma once

#include <memory>
#include <unordered_map>

#include "base/mutex.hpp"
#include "core/memory.hpp"
#include "providers/verbs/parts.hpp"

namespace ndv::verbs {

class ProtectionDomain final : public core::ProtectionDomain {
public:
    [[nodiscard]] static Expected<std::shared_ptr<ProtectionDomain>> create(
        std::shared_ptr<AdapterParts> parts, std::weak_ptr<core::Adapter> adapter);
    ProtectionDomain(std::shared_ptr<AdapterParts> parts, std::weak_ptr<core::Adapter> adapter,
                     std::shared_ptr<OwnedDomain> domain);

    [[nodiscard]] const core::AdapterInfo& info() const override { return parts_->device->info(); }
    [[nodiscard]] Status acquire_local(const core::Segment& segment, std::uint32_t rights,
                                       core::LocalBuffer& out) override;

    // Local memory that requests may name, by its token.
    void add(std::uint32_t token, core::BufferHold& hold, std::uint32_t rights);
    void remove(std::uint32_t token);
    [[nodiscard]] const std::shared_ptr<OwnedDomain>& domain() const { return domain_; }

private:
    [[nodiscard]] Expected<std::shared_ptr<core::MemoryRegion>> do_create_mr() override;
    [[nodiscard]] Expected<std::shared_ptr<core::QueuePair>> do_create_qp(
        std::shared_ptr<core::CompletionQueue> receive_cq,
        std::shared_ptr<core::CompletionQueue> initiator_cq, const core::QueuePairLimits& limits,
        core::RequestContexts* contexts) override;

    struct Region {
        core::BufferHold* hold;  // the memory region has a reference
        std::uint32_t rights;
    };

    const std::shared_ptr<AdapterParts> parts_;
    const std::weak_ptr<core::Adapter> adapter_;
    const std::shared_ptr<OwnedDomain> domain_;
    base::Mutex mutex_;
    std::unordered_map<std::uint32_t, Region> regions_ NDV_GUARDED_BY(mutex_);
};

}  // namespace ndv::verbs

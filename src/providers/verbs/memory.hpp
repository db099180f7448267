// SPDX-License-Identifier: Apache-2.0
// Protection domains and memory regions of the verbs provider.
#pragma once

#include <memory>

#include "core/memory.hpp"
#include "providers/verbs/local_memory.hpp"
#include "providers/verbs/parts.hpp"

namespace ndv::verbs {

// The device's bits for what a peer may do.
[[nodiscard]] unsigned remote_access(std::uint32_t rights);

class MemoryRegion final : public core::MemoryRegion {
public:
    MemoryRegion(std::shared_ptr<core::ProtectionDomain> pd, std::shared_ptr<LocalMemory> memory);
    ~MemoryRegion() override {
        if (!is_foreign()) close();
    }
    // While a window is counted at the region.
    [[nodiscard]] ibv_mr* handle() const { return mr_; }
    [[nodiscard]] bool is_bindable() const { return is_bindable_; }
    [[nodiscard]] std::uintptr_t raw_handle() const override {
        return reinterpret_cast<std::uintptr_t>(mr_);
    }

private:
    [[nodiscard]] Expected<core::Tokens> do_register(core::BufferHold& hold,
                                                     std::uint32_t rights) override;
    void do_deregister(const core::Tokens& tokens) override;

    const std::shared_ptr<LocalMemory> memory_;
    // Written under core's mutex of the region.
    ibv_mr* mr_ = nullptr;
    bool is_bindable_ = false;
};

[[nodiscard]] Expected<std::shared_ptr<core::ProtectionDomain>> make_protection_domain(
    std::shared_ptr<AdapterParts> parts, std::weak_ptr<core::Adapter> adapter);

}  // namespace ndv::verbs

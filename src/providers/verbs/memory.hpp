// SPDX-License-Identifier: Apache-2.0
// Protection domains and memory regions of the verbs provider.
#pragma once

#include <memory>

#include "core/memory.hpp"
#include "providers/verbs/local_memory.hpp"
#include "providers/verbs/parts.hpp"

namespace ndv::verbs {

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

class ProtectionDomain final : public core::ProtectionDomain {
public:
    [[nodiscard]] static Expected<std::shared_ptr<ProtectionDomain>> create(
        std::shared_ptr<AdapterParts> parts, std::weak_ptr<core::Adapter> adapter);
    ProtectionDomain(std::shared_ptr<AdapterParts> parts, std::weak_ptr<core::Adapter> adapter,
                     std::shared_ptr<LocalMemory> memory);

    [[nodiscard]] const core::AdapterInfo& info() const override { return parts_->device->info(); }
    [[nodiscard]] std::uintptr_t raw_handle() const override {
        return reinterpret_cast<std::uintptr_t>(memory_->domain()->get());
    }
    [[nodiscard]] bool waits_for_device() const override { return true; }
    [[nodiscard]] Status acquire_local(const core::Segment& segment, std::uint32_t rights,
                                       core::LocalBuffer& out) override {
        return memory_->acquire(segment, rights, out);
    }

private:
    [[nodiscard]] Expected<std::shared_ptr<core::MemoryRegion>> do_create_mr() override;
    [[nodiscard]] Expected<std::shared_ptr<core::FastRegisterMemoryRegion>>
    do_create_fast_register_mr(std::uint32_t max_pages, bool remote_access) override;
    [[nodiscard]] Expected<std::shared_ptr<core::MemoryWindow>> do_create_mw() override;
    [[nodiscard]] Expected<std::uint32_t> do_privileged_token() override {
        return memory_->privileged_token();
    }
    [[nodiscard]] Expected<std::shared_ptr<core::SharedReceiveQueue>> do_create_srq(
        const core::SharedReceiveQueueLimits& limits, core::RequestContexts* contexts,
        std::function<void(Status)> on_notify) override;
    [[nodiscard]] Expected<std::shared_ptr<core::QueuePair>> do_create_qp(
        std::shared_ptr<core::CompletionQueue> receive_cq,
        std::shared_ptr<core::CompletionQueue> initiator_cq,
        std::shared_ptr<core::SharedReceiveQueue> srq, const core::QueuePairLimits& limits,
        core::RequestContexts* contexts) override;
    [[nodiscard]] bool has(const char* feature) const;

    const std::shared_ptr<AdapterParts> parts_;
    const std::shared_ptr<LocalMemory> memory_;
};

}  // namespace ndv::verbs

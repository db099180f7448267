// SPDX-License-Identifier: Apache-2.0
// Registration with a device, and what else a verbs protection domain makes.
#include "providers/verbs/memory.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "providers/verbs/async_events.hpp"
#include "providers/verbs/logical_memory.hpp"
#include "providers/verbs/mapping.hpp"
#include "providers/verbs/queue_pair.hpp"
#include "providers/verbs/shared_receive_queue.hpp"

namespace ndv::verbs {
namespace {

int access_of(std::uint32_t rights, bool is_iwarp) {
    unsigned access = remote_access(rights);
    if ((rights & core::access::kLocalWrite) != 0) access |= IBV_ACCESS_LOCAL_WRITE;
    // iWARP places a response to a Read through a token that peers may write through.
    if (is_iwarp && (rights & core::access::kRdmaReadSink) != 0) {
        access |= IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
    }
    return static_cast<int>(access);
}

}  // namespace

unsigned remote_access(std::uint32_t rights) {
    unsigned access = 0;
    if ((rights & core::access::kRemoteRead) != 0) access |= IBV_ACCESS_REMOTE_READ;
    if ((rights & core::access::kRemoteWriteBit) != 0) access |= IBV_ACCESS_REMOTE_WRITE;
    if ((rights & core::access::kRemoteAtomicBit) != 0) access |= IBV_ACCESS_REMOTE_ATOMIC;
    return access;
}

MemoryRegion::MemoryRegion(std::shared_ptr<core::ProtectionDomain> pd,
                           std::shared_ptr<LocalMemory> memory)
    : core::MemoryRegion(std::move(pd)), memory_(std::move(memory)) {}

Expected<core::Tokens> MemoryRegion::do_register(core::BufferHold& hold, std::uint32_t rights) {
    const OwnedDomain& domain = *memory_->domain();
    const auto address = reinterpret_cast<std::uint64_t>(hold.data());
    LocalMemory::Region local;
    local.hold = &hold;
    local.data = hold.data();
    local.address = address;
    local.size = hold.size();
    local.rights = rights;
    // The device's key may be one of our own numbers. Kept until another one is there, it cannot
    // come again.
    std::vector<ibv_mr*> taken;
    RegisteredMemory made;
    int os_error = 0;
    while (true) {
        made = register_memory(domain, hold.data(), hold.size(), address,
                               access_of(rights, domain.device()->is_iwarp()));
        if (made.mr == nullptr) {
            os_error = errno;
            break;
        }
        local.key = made.mr->lkey;
        if (memory_->add(made.mr->lkey, local)) break;
        taken.push_back(made.mr);
    }
    for (ibv_mr* const mr : taken) ibv_dereg_mr(mr);
    if (made.mr == nullptr) {
        return verb_failed("register: " + std::to_string(hold.size()) + " bytes", os_error);
    }
    mr_ = made.mr;
    is_bindable_ = made.is_bindable;
    return core::Tokens{mr_->lkey, (rights & core::access::kRemote) != 0 ? mr_->rkey : 0};
}

void MemoryRegion::do_deregister(const core::Tokens& tokens) {
    memory_->remove(tokens.local);
    ibv_dereg_mr(std::exchange(mr_, nullptr));
}

namespace {

class ProtectionDomain final : public core::ProtectionDomain {
public:
    ProtectionDomain(std::shared_ptr<AdapterParts> parts, std::weak_ptr<core::Adapter> adapter,
                     std::shared_ptr<LocalMemory> memory)
        : core::ProtectionDomain(std::move(adapter)),
          parts_(std::move(parts)),
          memory_(std::move(memory)) {}

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
    Expected<std::shared_ptr<core::MemoryRegion>> do_create_mr() override {
        return {std::make_shared<MemoryRegion>(self(), memory_)};
    }

    Expected<std::shared_ptr<core::FastRegisterMemoryRegion>> do_create_fast_register_mr(
        std::uint32_t max_pages, bool remote_access) override {
        if (!has("create_fast_register_mr")) {
            return core::ProtectionDomain::do_create_fast_register_mr(max_pages, remote_access);
        }
        // 256 MiB in pages of 4 KiB, like soft.
        constexpr std::uint32_t kMostPages = 65536;
        if (max_pages > kMostPages) {
            return fail(Status::implementation_limit,
                        "create_fast_register_mr: " + std::to_string(max_pages) +
                            " pages; this adapter takes up to " + std::to_string(kMostPages),
                        "use several regions");
        }
        auto mappable = std::make_shared<Mappable>(memory_);
        if (!mappable->has_window()) {
            return verb_failed("create_fast_register_mr: ibv_alloc_mw", errno);
        }
        return {std::make_shared<FastRegisterMemoryRegion>(self(), std::move(mappable), max_pages,
                                                           remote_access)};
    }

    Expected<std::shared_ptr<core::MemoryWindow>> do_create_mw() override {
        if (!has("create_mw")) return core::ProtectionDomain::do_create_mw();
        auto mappable = std::make_shared<Mappable>(memory_);
        if (!mappable->has_window()) return verb_failed("create_mw: ibv_alloc_mw", errno);
        return {std::make_shared<MemoryWindow>(self(), std::move(mappable))};
    }

    Expected<std::uint32_t> do_privileged_token() override { return memory_->privileged_token(); }

    Expected<std::shared_ptr<core::SharedReceiveQueue>> do_create_srq(
        const core::SharedReceiveQueueLimits& limits, core::RequestContexts* contexts,
        std::function<void(Status)> on_notify) override {
        auto hardware = std::make_shared<HardwareSharedQueue>(parts_, memory_->domain());
        if (auto created = hardware->create(limits.depth, limits.max_sge); !created) {
            return Unexpected{created.error()};
        }
        auto made = std::make_shared<SharedReceiveQueue>(self(), parts_, hardware, limits, contexts,
                                                         std::move(on_notify));
        parts_->async_events->watch(hardware->get(), made);
        return {std::move(made)};
    }

    Expected<std::shared_ptr<core::QueuePair>> do_create_qp(
        std::shared_ptr<core::CompletionQueue> receive_cq,
        std::shared_ptr<core::CompletionQueue> initiator_cq,
        std::shared_ptr<core::SharedReceiveQueue> srq, const core::QueuePairLimits& limits,
        core::RequestContexts* contexts) override {
        auto receive = std::dynamic_pointer_cast<CompletionQueue>(std::move(receive_cq));
        auto initiator = std::dynamic_pointer_cast<CompletionQueue>(std::move(initiator_cq));
        if (!receive || !initiator || receive->parts() != parts_ || initiator->parts() != parts_) {
            return fail(Status::invalid_parameter,
                        "create_qp: a completion queue belongs to another adapter");
        }
        auto made = std::make_shared<QueuePair>(
            self(), memory_, std::move(receive), std::move(initiator),
            std::static_pointer_cast<SharedReceiveQueue>(std::move(srq)), limits, contexts);
        if (auto taken = made->take_hardware(); !taken) return Unexpected{taken.error()};
        return {std::move(made)};
    }

    [[nodiscard]] bool has(const char* feature) const {
        return std::ranges::count(info().features, std::string(feature)) != 0;
    }

    const std::shared_ptr<AdapterParts> parts_;
    const std::shared_ptr<LocalMemory> memory_;
};

}  // namespace

Expected<std::shared_ptr<core::ProtectionDomain>> make_protection_domain(
    std::shared_ptr<AdapterParts> parts, std::weak_ptr<core::Adapter> adapter) {
    ibv_pd* const pd = ibv_alloc_pd(parts->device->get());
    if (pd == nullptr) return verb_failed("create_pd: ibv_alloc_pd", errno);
    auto memory = std::make_shared<LocalMemory>(std::make_shared<OwnedDomain>(parts->device, pd),
                                                parts->lams);
    return std::shared_ptr<core::ProtectionDomain>(std::make_shared<ProtectionDomain>(
        std::move(parts), std::move(adapter), std::move(memory)));
}

}  // namespace ndv::verbs

// SPDX-License-Identifier: Apache-2.0
// Registration with a device, and the check of local memory for requests.
#include "providers/verbs/memory.hpp"

#include <cerrno>
#include <utility>

#include "providers/verbs/queue_pair.hpp"

namespace ndv::verbs {
namespace {

int access_of(std::uint32_t rights, bool is_iwarp) {
    unsigned access = 0;
    if ((rights & core::access::kLocalWrite) != 0) access |= IBV_ACCESS_LOCAL_WRITE;
    if ((rights & core::access::kRemoteRead) != 0) access |= IBV_ACCESS_REMOTE_READ;
    if ((rights & core::access::kRemoteWriteBit) != 0) access |= IBV_ACCESS_REMOTE_WRITE;
    // iWARP places a response to a Read through a token that peers may write through.
    if (is_iwarp && (rights & core::access::kRdmaReadSink) != 0) {
        access |= IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
    }
    return static_cast<int>(access);
}

class MemoryRegion final : public core::MemoryRegion {
public:
    MemoryRegion(const std::shared_ptr<ProtectionDomain>& pd, std::shared_ptr<Device> device)
        : core::MemoryRegion(pd), domain_(*pd), device_(std::move(device)) {}
    ~MemoryRegion() override {
        if (!is_foreign()) close();
    }

private:
    Expected<core::Tokens> do_register(core::BufferHold& hold, std::uint32_t rights) override {
        // In parentheses: the function itself, not the header's macro, which calls a newer one for
        // access flags that we do not use.
        ibv_mr* const mr = (ibv_reg_mr)(domain_.domain()->get(), hold.data(), hold.size(),
                                        access_of(rights, device_->is_iwarp()));
        if (mr == nullptr) {
            return verb_failed("register: " + std::to_string(hold.size()) + " bytes", errno);
        }
        mr_ = mr;
        domain_.add(mr->lkey, hold, rights);
        const bool is_remote =
            (rights & (core::access::kRemoteRead | core::access::kRemoteWriteBit)) != 0;
        return core::Tokens{mr->lkey, is_remote ? mr->rkey : 0};
    }
    void do_deregister(const core::Tokens& tokens) override {
        domain_.remove(tokens.local);
        ibv_dereg_mr(std::exchange(mr_, nullptr));
    }

    ProtectionDomain& domain_;  // held by core::MemoryRegion
    const std::shared_ptr<Device> device_;
    ibv_mr* mr_ = nullptr;  // guarded by core's mutex of the region
};

}  // namespace

Expected<std::shared_ptr<ProtectionDomain>> ProtectionDomain::create(
    std::shared_ptr<AdapterParts> parts, std::weak_ptr<core::Adapter> adapter) {
    ibv_pd* const pd = ibv_alloc_pd(parts->device->get());
    if (pd == nullptr) return verb_failed("create_pd: ibv_alloc_pd", errno);
    auto owned = std::make_shared<OwnedDomain>(parts->device, pd);
    return std::make_shared<ProtectionDomain>(std::move(parts), std::move(adapter),
                                              std::move(owned));
}

ProtectionDomain::ProtectionDomain(std::shared_ptr<AdapterParts> parts,
                                   std::weak_ptr<core::Adapter> adapter,
                                   std::shared_ptr<OwnedDomain> domain)
    : parts_(std::move(parts)), adapter_(std::move(adapter)), domain_(std::move(domain)) {}

Status ProtectionDomain::acquire_local(const core::Segment& segment, std::uint32_t rights,
                                       core::LocalBuffer& out) {
    const base::Lock lock(mutex_);
    const auto found = regions_.find(segment.token);
    if (found == regions_.end()) return Status::access_violation;
    const Region& region = found->second;
    const std::uint64_t base = reinterpret_cast<std::uint64_t>(region.hold->data());
    const std::uint64_t size = region.hold->size();
    if ((region.rights & rights) != rights || segment.length > size || segment.address < base ||
        segment.address - base > size - segment.length) {
        return Status::access_violation;
    }
    region.hold->add_reference();
    out = {region.hold->data() + (segment.address - base),
           static_cast<std::uint32_t>(segment.length), region.hold};
    return Status::success;
}

void ProtectionDomain::add(std::uint32_t token, core::BufferHold& hold, std::uint32_t rights) {
    const base::Lock lock(mutex_);
    regions_[token] = {&hold, rights};
}

void ProtectionDomain::remove(std::uint32_t token) {
    const base::Lock lock(mutex_);
    regions_.erase(token);
}

Expected<std::shared_ptr<core::MemoryRegion>> ProtectionDomain::do_create_mr() {
    const auto made = std::make_shared<MemoryRegion>(
        std::static_pointer_cast<ProtectionDomain>(shared_from_this()), parts_->device);
    if (const auto adapter = adapter_.lock()) adapter->adopt(made);
    return std::shared_ptr<core::MemoryRegion>(made);
}

Expected<std::shared_ptr<core::QueuePair>> ProtectionDomain::do_create_qp(
    std::shared_ptr<core::CompletionQueue> receive_cq,
    std::shared_ptr<core::CompletionQueue> initiator_cq, const core::QueuePairLimits& limits,
    core::RequestContexts* contexts) {
    auto receive = std::dynamic_pointer_cast<CompletionQueue>(std::move(receive_cq));
    auto initiator = std::dynamic_pointer_cast<CompletionQueue>(std::move(initiator_cq));
    if (!receive || !initiator || receive->parts() != parts_ || initiator->parts() != parts_) {
        return fail(Status::invalid_parameter,
                    "create_qp: a completion queue belongs to another adapter");
    }
    auto made =
        QueuePair::create(std::static_pointer_cast<ProtectionDomain>(shared_from_this()), domain_,
                          std::move(receive), std::move(initiator), limits, contexts);
    if (!made) return Unexpected{made.error()};
    if (const auto adapter = adapter_.lock()) adapter->adopt(*made);
    return std::shared_ptr<core::QueuePair>(std::move(*made));
}

}  // namespace ndv::verbs

// SPDX-License-Identifier: Apache-2.0
// Registered regions, and what else a soft protection domain makes.
#include "providers/soft/protection_domain.hpp"

#include <atomic>
#include <utility>

#include "providers/soft/adapter.hpp"
#include "providers/soft/completion_queue.hpp"
#include "providers/soft/mapping.hpp"
#include "providers/soft/queue_pair.hpp"
#include "providers/soft/shared_receive_queue.hpp"

namespace ndv::soft {
namespace {

class MemoryRegion final : public core::MemoryRegion {
public:
    MemoryRegion(std::shared_ptr<core::ProtectionDomain> pd, std::shared_ptr<MemoryTable> table,
                 std::shared_ptr<Progress> progress, std::uint64_t domain)
        : core::MemoryRegion(std::move(pd)),
          table_(std::move(table)),
          progress_(std::move(progress)),
          domain_(domain) {}
    ~MemoryRegion() override {
        if (!is_foreign()) close();
    }

private:
    Expected<core::Tokens> do_register(core::BufferHold& hold, std::uint32_t rights) override {
        if (table_->faults() && table_->faults()->takes_registration()) {
            return fail(Status::insufficient_resources,
                        "register: the adapter's faults let it fail (Faults.fail_registration)");
        }
        EntryContent content;
        content.hold = &hold;
        content.data = hold.data();
        content.address = reinterpret_cast<std::uint64_t>(hold.data());
        content.size = hold.size();
        content.rights = rights;
        content.domain = domain_;
        const std::uint32_t token = table_->add(content);
        if (token == 0) {
            return fail(Status::insufficient_resources,
                        "register: the adapter's table of regions is full",
                        "deregister regions that are no longer used");
        }
        const bool is_remote = (rights & core::access::kRemote) != 0;
        return core::Tokens{token, is_remote ? token : 0};
    }
    void do_deregister(const core::Tokens& tokens) override { table_->remove(tokens.local); }
    bool await_peers(const core::Tokens& tokens, std::chrono::nanoseconds patience) override {
        return table_->await_users(table_->hazard_for(tokens.local), patience);
    }
    void leave_to_peers(const core::Tokens& tokens, core::BufferHold& hold) override {
        soft::leave_to_peers(table_, table_->hazard_for(tokens.local), hold, *progress_);
    }

    const std::shared_ptr<MemoryTable> table_;
    const std::shared_ptr<Progress> progress_;
    const std::uint64_t domain_;
};

class ProtectionDomain final : public core::ProtectionDomain {
public:
    ProtectionDomain(std::shared_ptr<AdapterParts> parts, std::weak_ptr<core::Adapter> adapter)
        : core::ProtectionDomain(std::move(adapter)),
          parts_(std::move(parts)),
          info_(soft_limits()),
          domain_(parts_->next_domain.fetch_add(1, std::memory_order_relaxed)),
          memory_(*parts_->table, domain_, 0) {}
    ~ProtectionDomain() override {
        if (!is_foreign()) parts_->table->give_back(privileged_);
    }

    [[nodiscard]] const core::AdapterInfo& info() const override { return info_; }
    [[nodiscard]] Expected<std::shared_ptr<std::byte>> lend_pages(std::size_t size) override {
        if (!parts_->table->is_shared()) return std::shared_ptr<std::byte>();
        return parts_->table->arena()->allocate(size, Arena::Pages::once_touched);
    }

    [[nodiscard]] Status acquire_local(const core::Segment& segment, std::uint32_t rights,
                                       core::LocalBuffer& out) override {
        const Status status = memory_.acquire_local(segment, rights, out);
        if (status == Status::success) [[likely]]
            return status;
        // The privileged token names nothing in the table, so that no peer can use it. acquire:
        // pairs with do_privileged_token().
        if (segment.token == 0 ||
            segment.token != privileged_token_.load(std::memory_order_acquire)) {
            return status;
        }
        const LogicalRange range = find_logical(*parts_->table, segment.address, segment.length);
        if (range.hold == nullptr) return Status::access_violation;
        out = {range.data, static_cast<std::uint32_t>(segment.length), range.hold, nullptr, 0};
        const bool is_written = (rights & core::access::kLocalWrite) != 0;
        if (!is_written || range.hold->is_writable()) return Status::success;
        range.hold->release();
        return Status::access_violation;
    }

private:
    Expected<std::shared_ptr<core::MemoryRegion>> do_create_mr() override {
        return {std::make_shared<MemoryRegion>(self(), parts_->table, parts_->progress, domain_)};
    }

    Expected<std::shared_ptr<core::FastRegisterMemoryRegion>> do_create_fast_register_mr(
        std::uint32_t max_pages, bool remote_access) override {
        // 256 MiB in pages of 4 KiB.
        constexpr std::uint32_t kMostPages = 65536;
        if (max_pages > kMostPages) {
            return fail(Status::implementation_limit,
                        "create_fast_register_mr: " + std::to_string(max_pages) +
                            " pages; this adapter takes up to " + std::to_string(kMostPages),
                        "use several regions");
        }
        auto mappable =
            std::make_shared<Mappable>(parts_->table, parts_->progress, domain_, max_pages);
        return {std::make_shared<FastRegisterMemoryRegion>(self(), std::move(mappable), max_pages,
                                                           remote_access)};
    }

    Expected<std::shared_ptr<core::MemoryWindow>> do_create_mw() override {
        auto mappable = std::make_shared<Mappable>(parts_->table, parts_->progress, domain_, 0);
        return {std::make_shared<MemoryWindow>(self(), std::move(mappable))};
    }

    Expected<std::uint32_t> do_privileged_token() override {
        const base::Lock lock(privileged_mutex_);
        // relaxed: written under this mutex alone.
        std::uint32_t token = privileged_token_.load(std::memory_order_relaxed);
        if (token != 0) return token;
        token = parts_->table->next_token(privileged_);
        if (token == 0) {
            return fail(Status::insufficient_resources,
                        "privileged_token: the adapter's table of regions is full");
        }
        privileged_token_.store(token, std::memory_order_release);  // pairs with acquire_local()
        return token;
    }

    Expected<std::shared_ptr<core::SharedReceiveQueue>> do_create_srq(
        const core::SharedReceiveQueueLimits& limits, core::RequestContexts* contexts,
        std::function<void(Status)> on_notify) override {
        return {
            std::make_shared<SharedReceiveQueue>(self(), limits, contexts, std::move(on_notify))};
    }

    Expected<std::shared_ptr<core::QueuePair>> do_create_qp(
        std::shared_ptr<core::CompletionQueue> receive_cq,
        std::shared_ptr<core::CompletionQueue> initiator_cq,
        std::shared_ptr<core::SharedReceiveQueue> srq, const core::QueuePairLimits& limits,
        core::RequestContexts* contexts) override {
        auto receive = std::dynamic_pointer_cast<CompletionQueue>(std::move(receive_cq));
        auto initiator = std::dynamic_pointer_cast<CompletionQueue>(std::move(initiator_cq));
        if (!receive || !initiator || receive->progress() != parts_->progress ||
            initiator->progress() != parts_->progress) {
            return fail(Status::invalid_parameter,
                        "create_qp: a completion queue belongs to another adapter");
        }
        auto made = std::make_shared<QueuePair>(
            self(), std::move(receive), std::move(initiator), limits, contexts, parts_->table,
            domain_, parts_->progress, parts_->totals,
            std::static_pointer_cast<SharedReceiveQueue>(std::move(srq)));
        if (const auto& faults = parts_->faults) {
            faults->on_change(made, [qp = made.get()] { qp->step_for_receive(); });
        }
        return {std::move(made)};
    }

    const std::shared_ptr<AdapterParts> parts_;
    const core::AdapterInfo info_;
    const std::uint64_t domain_;
    DomainMemory memory_;
    base::Mutex privileged_mutex_;
    TokenSource privileged_ NDV_GUARDED_BY(privileged_mutex_);
    std::atomic<std::uint32_t> privileged_token_{0};
};

}  // namespace

std::shared_ptr<core::ProtectionDomain> make_protection_domain(
    std::shared_ptr<AdapterParts> parts, std::weak_ptr<core::Adapter> adapter) {
    return std::make_shared<ProtectionDomain>(std::move(parts), std::move(adapter));
}

}  // namespace ndv::soft

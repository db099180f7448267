// SPDX-License-Identifier: Apache-2.0
// The soft adapter: limits, creation, and the soft provider itself.
#include "providers/soft/adapter.hpp"

#include <sys/random.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "providers/soft/connector.hpp"
#include "providers/soft/listener.hpp"

namespace ndv::soft {
namespace {

class MemoryRegion final : public core::MemoryRegion {
public:
    MemoryRegion(std::shared_ptr<core::ProtectionDomain> pd, std::shared_ptr<MemoryTable> table,
                 std::uint64_t domain)
        : core::MemoryRegion(std::move(pd)), table_(std::move(table)), domain_(domain) {}
    ~MemoryRegion() override {
        if (!is_foreign()) close();
    }

private:
    Expected<core::Tokens> do_register(core::BufferHold& hold, std::uint32_t rights) override {
        const std::uint32_t token = table_->add(hold, rights, domain_);
        if (token == 0) {
            return fail(Status::insufficient_resources,
                        "register: the adapter's table of regions is full",
                        "deregister regions that are no longer used");
        }
        const bool is_remote =
            (rights & (core::access::kRemoteRead | core::access::kRemoteWriteBit)) != 0;
        return core::Tokens{token, is_remote ? token : 0};
    }
    void do_deregister(const core::Tokens& tokens) override { table_->remove(tokens.local); }

    const std::shared_ptr<MemoryTable> table_;
    const std::uint64_t domain_;
};

class ProtectionDomain final : public core::ProtectionDomain {
public:
    ProtectionDomain(std::shared_ptr<AdapterParts> parts, std::weak_ptr<core::Adapter> adapter)
        : parts_(std::move(parts)),
          adapter_(std::move(adapter)),
          info_(soft_info()),
          domain_(parts_->next_domain.fetch_add(1, std::memory_order_relaxed)),
          memory_(*parts_->table, domain_) {}

    [[nodiscard]] const core::AdapterInfo& info() const override { return info_; }

    [[nodiscard]] Status acquire_local(const core::Segment& segment, std::uint32_t rights,
                                       core::LocalBuffer& out) override {
        return memory_.acquire_local(segment, rights, out);
    }

private:
    Expected<std::shared_ptr<core::MemoryRegion>> do_create_mr() override {
        return adopted<core::MemoryRegion>(
            std::make_shared<MemoryRegion>(self(), parts_->table, domain_));
    }

    Expected<std::shared_ptr<core::QueuePair>> do_create_qp(
        std::shared_ptr<core::CompletionQueue> receive_cq,
        std::shared_ptr<core::CompletionQueue> initiator_cq, const core::QueuePairLimits& limits,
        core::RequestContexts* contexts) override {
        auto receive = std::dynamic_pointer_cast<CompletionQueue>(std::move(receive_cq));
        auto initiator = std::dynamic_pointer_cast<CompletionQueue>(std::move(initiator_cq));
        if (!receive || !initiator || receive->progress() != parts_->progress ||
            initiator->progress() != parts_->progress) {
            return fail(Status::invalid_parameter,
                        "create_qp: a completion queue belongs to another adapter");
        }
        return adopted<core::QueuePair>(std::make_shared<QueuePair>(
            self(), std::move(receive), std::move(initiator), limits, contexts, parts_->table,
            domain_, parts_->progress, parts_->totals));
    }

    [[nodiscard]] std::shared_ptr<core::ProtectionDomain> self() {
        return std::static_pointer_cast<core::ProtectionDomain>(shared_from_this());
    }

    template <typename T>
    [[nodiscard]] Expected<std::shared_ptr<T>> adopted(std::shared_ptr<T> made) {
        if (const auto adapter = adapter_.lock()) adapter->adopt(made);
        return made;
    }

    const std::shared_ptr<AdapterParts> parts_;
    const std::weak_ptr<core::Adapter> adapter_;
    const core::AdapterInfo info_;
    const std::uint64_t domain_;
    DomainMemory memory_;
};

}  // namespace

core::AdapterInfo soft_info() {
    core::AdapterInfo info;
    info.name = "soft";
    info.provider = "soft";
    info.max_registration_size = 1ULL << 47U;  // a user address space
    info.max_initiator_request_sge = 16;
    info.max_receive_request_sge = 16;
    info.max_read_request_sge = 16;
    info.max_transfer_length = 0xFFFFFFFF;  // RFC 5041: message offsets have 32 bits
    info.max_inline_data_size = 4096;
    info.max_inbound_read_limit = 128;
    info.max_outbound_read_limit = 128;
    info.max_receive_queue_depth = 16384;
    info.max_initiator_queue_depth = 16384;
    info.max_cq_depth = 1U << 22U;
    info.large_request_threshold = 16384;
    info.max_caller_data =
        static_cast<std::uint32_t>(iwarp::kMpaMaxPrivateData - iwarp::MpaEnhanced::kSize);
    info.max_callee_data = info.max_caller_data;
    info.adapter_flags =
        core::adapter_flag::kInOrderDma | core::adapter_flag::kRdmaReadSinkNotRequired |
        core::adapter_flag::kMultiEngine | core::adapter_flag::kLoopbackConnections;
    info.rdma_technology = "iWARP";
    info.features = {"send_and_invalidate", "crc", "peer_to_peer", "control_connect_events"};
    info.addresses = {"127.0.0.1", "::1"};
    return info;
}

std::unique_ptr<Link> AdapterParts::make_link(base::Descriptor socket) const {
    std::unique_ptr<Link> link = std::make_unique<TcpLink>(std::move(socket));
    return capture ? captured(std::move(link), capture) : std::move(link);
}

Adapter::Adapter(std::shared_ptr<AdapterParts> parts)
    : parts_(std::move(parts)), info_(soft_info()) {
    if (parts_->address) {
        info_.name += ":" + parts_->address->host();
        info_.addresses = {parts_->address->host()};
    }
}

Adapter::~Adapter() {
    if (!is_foreign()) close();
}

void Adapter::stop() { parts_->progress->stop(); }

std::map<std::string, std::uint64_t> Adapter::stats() const {
    std::map<std::string, std::uint64_t> all = parts_->counters.read();
    all["rdma_in_octets"] = parts_->totals->bytes_in.load(std::memory_order_relaxed);
    all["rdma_out_octets"] = parts_->totals->bytes_out.load(std::memory_order_relaxed);
    all["rdma_in_frames"] = parts_->totals->fpdus_in.load(std::memory_order_relaxed);
    all["rdma_out_frames"] = parts_->totals->fpdus_out.load(std::memory_order_relaxed);
    return all;
}

Expected<std::shared_ptr<core::ProtectionDomain>> Adapter::do_create_pd() {
    return std::shared_ptr<core::ProtectionDomain>(std::make_shared<ProtectionDomain>(
        parts_, std::static_pointer_cast<Adapter>(shared_from_this())));
}

Expected<std::shared_ptr<core::CompletionQueue>> Adapter::do_create_cq(std::uint32_t depth) {
    auto made = CompletionQueue::create(depth, parts_->progress);
    if (!made) return Unexpected{made.error()};
    return std::shared_ptr<core::CompletionQueue>(std::move(*made));
}

Expected<std::shared_ptr<core::Connector>> Adapter::do_create_connector() {
    return std::shared_ptr<core::Connector>(std::make_shared<Connector>(parts_));
}

Expected<std::shared_ptr<core::Listener>> Adapter::do_create_listener() {
    return std::shared_ptr<core::Listener>(
        std::make_shared<Listener>(parts_, std::static_pointer_cast<Adapter>(shared_from_this())));
}

std::vector<core::AdapterInfo> SoftProvider::adapters() const { return {soft_info()}; }

Expected<std::shared_ptr<core::Adapter>> SoftProvider::open(
    const core::AdapterOptions& options) const {
    auto parts = std::make_shared<AdapterParts>();
    parts->options = options;
    if (!options.address.empty()) {
        auto address = core::SocketAddress::parse(options.address, 0);
        if (!address) return Unexpected{address.error()};
        const base::Descriptor probe(::socket(address->family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
        if (!probe || ::bind(probe.get(), address->raw(), address->length) != 0) {
            return fail(status_of(errno),
                        "open: " + options.address + " is not an address of this host", {}, errno);
        }
        parts->address = *address;
    }
    if (!options.capture_path.empty()) {
        auto capture = Capture::open(options.capture_path);
        if (!capture) return Unexpected{capture.error()};
        parts->capture = *capture;
    }
    if (::getrandom(&parts->seed, sizeof parts->seed, 0) !=
        static_cast<ssize_t>(sizeof parts->seed)) {
        parts->seed = static_cast<std::uint64_t>(now().count());
    }
    return std::shared_ptr<core::Adapter>(std::make_shared<Adapter>(std::move(parts)));
}

}  // namespace ndv::soft

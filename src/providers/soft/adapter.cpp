// SPDX-License-Identifier: Apache-2.0
// The soft adapter: limits, creation, and the soft provider itself.
#include "providers/soft/adapter.hpp"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <utility>

#include "providers/soft/connector.hpp"
#include "providers/soft/faulty_link.hpp"
#include "providers/soft/listener.hpp"
#include "providers/soft/mapping.hpp"
#include "providers/soft/protection_domain.hpp"

namespace ndv::soft {

core::AdapterInfo soft_limits() {
    core::AdapterInfo info;
    info.name = "soft";
    info.provider = "soft";
    info.max_registration_size = 1ULL << 47U;  // a user address space
    info.max_window_size = info.max_registration_size;
    info.frmr_page_count = 256;
    info.max_initiator_request_sge = 16;
    info.max_receive_request_sge = 16;
    info.max_read_request_sge = 16;
    info.max_transfer_length = 0xFFFFFFFF;  // RFC 5041: message offsets have 32 bits
    info.max_inline_data_size = 4096;
    info.max_inbound_read_limit = 128;
    info.max_outbound_read_limit = 128;
    info.max_receive_queue_depth = 16384;
    info.max_initiator_queue_depth = 16384;
    info.max_srq_depth = 16384;
    info.max_cq_depth = 1U << 22U;
    info.large_request_threshold = 16384;
    info.max_caller_data =
        static_cast<std::uint32_t>(iwarp::kMpaMaxPrivateData - iwarp::MpaEnhanced::kSize);
    info.max_callee_data = info.max_caller_data;
    info.adapter_flags =
        core::adapter_flag::kInOrderDma | core::adapter_flag::kRdmaReadSinkNotRequired |
        core::adapter_flag::kCqInterruptModeration | core::adapter_flag::kCqResize |
        core::adapter_flag::kMultiEngine | core::adapter_flag::kRdmaReadLocalInvalidate |
        core::adapter_flag::kLoopbackConnections;
    info.rdma_technology = "iWARP";
    info.features = {"send_and_invalidate",
                     "crc",
                     "direct",
                     "faults",
                     "peer_to_peer",
                     "control_connect_events",
                     "create_shared_endpoint",
                     "build_lam",
                     "create_fast_register_mr",
                     "fast_register_any_pages",
                     "fast_register_any_qp",
                     "create_mw",
                     "privileged_token"};
    info.extensions = core::extension::kAtomics | core::extension::kImmediate;
    return info;
}

std::unique_ptr<Link> AdapterParts::make_link(base::Descriptor socket, bool is_active) const {
    std::unique_ptr<Link> link = std::make_unique<TcpLink>(std::move(socket));
    if (capture) link = captured(std::move(link), capture);
    if (auto striking = link_faults()) {
        link =
            std::make_unique<FaultyLink>(std::move(link), std::move(striking), progress, is_active);
    }
    return link;
}

namespace {

// A kernel may have no IPv6, or have it switched off.
bool has_ipv6_loopback() {
    const base::Descriptor socket(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in6 address{};
    address.sin6_family = AF_INET6;
    address.sin6_addr = IN6ADDR_LOOPBACK_INIT;
    return socket &&
           ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
}

core::AdapterInfo soft_info() {
    core::AdapterInfo info = soft_limits();
    info.addresses = {"127.0.0.1"};
    if (has_ipv6_loopback()) info.addresses.emplace_back("::1");
    return info;
}

class Adapter final : public core::Adapter {
public:
    explicit Adapter(std::shared_ptr<AdapterParts> parts)
        : parts_(std::move(parts)), info_(soft_info()) {
        if (parts_->address) {
            info_.name.append(":").append(parts_->address->host());
            info_.addresses = {parts_->address->host()};
        }
    }
    ~Adapter() override {
        if (!is_foreign()) close();
    }

    [[nodiscard]] const core::AdapterInfo& info() const override { return info_; }

    [[nodiscard]] std::map<std::string, std::uint64_t> stats() const override {
        std::map<std::string, std::uint64_t> all = parts_->counters.read();
        // relaxed, all of them: numbers to look at, which order nothing.
        all["starting_connection"] = parts_->starting_connections.load(std::memory_order_relaxed);
        all["lingering_connection"] = parts_->progress->lingering();
        const iwarp::StreamCounters moved = parts_->totals->read();
        all["rdma_in_octets"] = moved.bytes_in;
        all["rdma_out_octets"] = moved.bytes_out;
        all["rdma_in_frames"] = moved.fpdus_in;
        all["rdma_out_frames"] = moved.fpdus_out;
        if (parts_->capture) all["capture_lost_packets"] = parts_->capture->lost();
        return all;
    }

    [[nodiscard]] Expected<std::uint64_t> address_of(std::uint64_t logical_page) const override {
        const std::byte* const page = find_logical_page(*parts_->table, logical_page);
        if (page == nullptr) {
            return fail(Status::access_violation,
                        "fast_register: the first page is of no mapping that is built",
                        "use pages of a LogicalAddressMapping");
        }
        return reinterpret_cast<std::uint64_t>(page);
    }

private:
    Expected<std::shared_ptr<core::ProtectionDomain>> do_create_pd() override {
        return make_protection_domain(parts_, self());
    }
    Expected<std::shared_ptr<core::CompletionQueue>> do_create_cq(std::uint32_t depth) override {
        auto made = CompletionQueue::create(depth, parts_->progress);
        if (!made) return Unexpected{made.error()};
        if (parts_->faults) {
            parts_->faults->on_overrun(*made, [queue = made->get()] { queue->overrun(); });
        }
        return std::shared_ptr<core::CompletionQueue>(std::move(*made));
    }
    Expected<std::shared_ptr<core::Connector>> do_create_connector() override {
        return std::shared_ptr<core::Connector>(std::make_shared<Connector>(parts_));
    }
    Expected<std::shared_ptr<core::Listener>> do_create_listener() override {
        return std::shared_ptr<core::Listener>(std::make_shared<Listener>(parts_, self()));
    }
    Expected<std::shared_ptr<core::SharedEndpoint>> do_create_shared_endpoint(
        const core::SocketAddress& address) override {
        auto socket = bound_socket(address, "create_shared_endpoint");
        if (!socket) return Unexpected{socket.error()};
        auto claim = parts_->claims.take(local_address_of(socket->get()));
        if (!claim) {
            return fail(Status::sharing_violation,
                        "create_shared_endpoint " + address.text() + ": the address is taken",
                        "choose another port, or 0");
        }
        return std::shared_ptr<core::SharedEndpoint>(
            std::make_shared<SharedEndpoint>(std::move(*socket), std::move(claim)));
    }
    Expected<std::shared_ptr<core::LogicalAddressMapping>> do_build_lam(
        core::BufferHold* hold) override {
        return make_lam(parts_->table, hold);
    }
    Expected<std::shared_ptr<std::byte>> do_allocate(std::size_t size) override {
        if (!parts_->table->is_shared()) return std::shared_ptr<std::byte>();
        return parts_->table->arena()->allocate(size, Arena::Pages::now);
    }
    void do_close() override {
        parts_->table->stop_waiting();
        core::Adapter::do_close();
    }
    void stop() override { parts_->progress->stop(); }

    [[nodiscard]] std::shared_ptr<core::Adapter> self() {
        return std::static_pointer_cast<core::Adapter>(shared_from_this());
    }

    const std::shared_ptr<AdapterParts> parts_;
    core::AdapterInfo info_;  // constant once made
};

// An empty file, PID-N.pcap, so that adapters and processes share the folder. Where none can be
// made, its path says so when it is opened.
std::string new_capture_in(const std::string& folder) {
    for (unsigned number = 1;; ++number) {
        std::string path =
            folder + '/' + std::to_string(::getpid()) + '-' + std::to_string(number) + ".pcap";
        const base::Descriptor made(
            ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
        if (made || errno != EEXIST) return path;
    }
}

}  // namespace

std::vector<core::AdapterInfo> SoftProvider::adapters() const { return {soft_info()}; }

Expected<std::shared_ptr<core::Adapter>> SoftProvider::open_faulty(
    const core::AdapterOptions& options, std::shared_ptr<core::Faults> faults) const {
    auto parts = std::make_shared<AdapterParts>();
    parts->options = options;
    parts->table->set_faults(faults);
    parts->faults = std::move(faults);
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
    if (!options.capture_path.empty() || !options.capture_folder.empty()) {
        auto capture =
            Capture::open(options.capture_path.empty() ? new_capture_in(options.capture_folder)
                                                       : options.capture_path);
        if (!capture) return Unexpected{capture.error()};
        parts->capture = *capture;
    }
    if (::getrandom(&parts->seed, sizeof parts->seed, 0) !=
        static_cast<ssize_t>(sizeof parts->seed)) {
        parts->seed = static_cast<std::uint64_t>(now().count());
    }
    AdapterId& id = parts->acquaintance->id;
    const bool has_id = ::getrandom(id.data(), sizeof id, 0) == static_cast<ssize_t>(sizeof id);
    parts->acquaintance->may_call = options.direct == core::Direct::automatic;
    if (options.direct != core::Direct::off && has_id) parts->table->share();
    return std::shared_ptr<core::Adapter>(std::make_shared<Adapter>(std::move(parts)));
}

// What builtin lists.
std::unique_ptr<core::Provider> make_provider() { return std::make_unique<SoftProvider>(); }

}  // namespace ndv::soft

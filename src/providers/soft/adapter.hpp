// SPDX-License-Identifier: Apache-2.0
// The soft adapter: an iWARP stack in user space over TCP sockets of this host.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "core/provider.hpp"
#include "providers/soft/capture.hpp"
#include "providers/soft/endpoints.hpp"
#include "providers/soft/memory_table.hpp"
#include "providers/soft/progress.hpp"
#include "providers/soft/queue_pair.hpp"

namespace ndv::soft {

// Without its addresses: which there are takes a socket to find out.
[[nodiscard]] core::AdapterInfo soft_limits();

// What the objects of one adapter share; held by each of them, so that any order of destruction
// is fine.
struct AdapterParts {
    std::shared_ptr<Progress> progress = std::make_shared<Progress>();
    std::shared_ptr<MemoryTable> table = std::make_shared<MemoryTable>();
    std::shared_ptr<StreamTotals> totals = std::make_shared<StreamTotals>();
    std::shared_ptr<Capture> capture;  // null: no capture
    const core::AdapterInfo limits = soft_limits();
    core::AdapterOptions options;
    std::optional<core::SocketAddress> address;  // "soft:192.0.2.1": only this one
    LocalBuffers local_buffers;
    std::uint64_t seed = 0;
    std::atomic<std::uint64_t> next_domain{1};
    core::ConnectionCounters counters;
    std::atomic<std::uint64_t> starting_connections{0};  // strangers whose request is not whole
    core::Claims claims;

    [[nodiscard]] std::unique_ptr<Link> make_link(base::Descriptor socket) const;
};

class Adapter final : public core::Adapter {
public:
    explicit Adapter(std::shared_ptr<AdapterParts> parts);
    ~Adapter() override;

    [[nodiscard]] const core::AdapterInfo& info() const override { return info_; }
    [[nodiscard]] std::map<std::string, std::uint64_t> stats() const override;
    [[nodiscard]] Expected<std::uint64_t> address_of(std::uint64_t logical_page) const override;

private:
    [[nodiscard]] Expected<std::shared_ptr<core::ProtectionDomain>> do_create_pd() override;
    [[nodiscard]] Expected<std::shared_ptr<core::CompletionQueue>> do_create_cq(
        std::uint32_t depth) override;
    [[nodiscard]] Expected<std::shared_ptr<core::Connector>> do_create_connector() override;
    [[nodiscard]] Expected<std::shared_ptr<core::Listener>> do_create_listener() override;
    [[nodiscard]] Expected<std::shared_ptr<core::SharedEndpoint>> do_create_shared_endpoint(
        const core::SocketAddress& address) override;
    [[nodiscard]] Expected<std::shared_ptr<core::LogicalAddressMapping>> do_build_lam(
        core::BufferHold* hold) override;
    void stop() override;

    const std::shared_ptr<AdapterParts> parts_;
    core::AdapterInfo info_;  // constant once made
};

class SoftProvider final : public core::Provider {
public:
    [[nodiscard]] const char* name() const override { return "soft"; }
    [[nodiscard]] std::vector<core::Finding> diagnose() const override;
    [[nodiscard]] std::vector<core::AdapterInfo> adapters() const override;
    [[nodiscard]] Expected<std::shared_ptr<core::Adapter>> open(
        const core::AdapterOptions& options) const override;
};

}  // namespace ndv::soft

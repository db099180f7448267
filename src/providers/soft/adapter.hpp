// SPDX-License-Identifier: Apache-2.0
// The soft adapter: an iWARP stack in user space over TCP sockets of this host.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "core/faults.hpp"
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
    std::shared_ptr<Acquaintance> acquaintance = std::make_shared<Acquaintance>();
    const core::AdapterInfo limits = soft_limits();
    core::AdapterOptions options;
    std::shared_ptr<core::Faults> faults;        // null: none
    std::optional<core::SocketAddress> address;  // "soft:192.0.2.1": only this one
    LocalBuffers local_buffers;
    std::uint64_t seed = 0;
    std::atomic<std::uint64_t> next_domain{1};  // relaxed: numbers, nothing else depends on them
    core::ConnectionCounters counters;
    // Strangers whose request is not whole. relaxed: as ConnectionCounters, a number to look at.
    std::atomic<std::uint64_t> starting_connections{0};
    core::Claims claims;

    [[nodiscard]] std::unique_ptr<Link> make_link(base::Descriptor socket, bool is_active) const;
    // What strikes links; null: nothing does.
    [[nodiscard]] std::shared_ptr<core::Faults> link_faults() const {
        return faults && !faults->is_direct() ? faults : nullptr;
    }
};

class SoftProvider final : public core::Provider {
public:
    [[nodiscard]] const char* name() const override { return "soft"; }
    [[nodiscard]] std::vector<core::Finding> diagnose() const override;
    [[nodiscard]] std::vector<core::AdapterInfo> adapters() const override;
    [[nodiscard]] Expected<std::shared_ptr<core::Adapter>> open(
        const core::AdapterOptions& options) const override {
        return open_faulty(options, nullptr);
    }
    [[nodiscard]] Expected<std::shared_ptr<core::Adapter>> open_faulty(
        const core::AdapterOptions& options, std::shared_ptr<core::Faults> faults) const override;
};

}  // namespace ndv::soft

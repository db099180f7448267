// SPDX-License-Identifier: Apache-2.0
// The verbs adapter: one device of rdma-core, opened.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/provider.hpp"
#include "providers/verbs/parts.hpp"

namespace ndv::verbs {

class Adapter final : public core::Adapter {
public:
    explicit Adapter(std::shared_ptr<AdapterParts> parts);
    ~Adapter() override;

    [[nodiscard]] const core::AdapterInfo& info() const override { return parts_->device->info(); }
    [[nodiscard]] std::uintptr_t raw_handle() const override {
        return reinterpret_cast<std::uintptr_t>(parts_->device->get());
    }
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
    [[nodiscard]] std::weak_ptr<core::Adapter> weak_from_this_adapter();

    const std::shared_ptr<AdapterParts> parts_;
};

class VerbsProvider final : public core::Provider {
public:
    [[nodiscard]] const char* name() const override { return "verbs"; }
    [[nodiscard]] std::vector<core::Finding> diagnose() const override;
    [[nodiscard]] std::string find_device(
        const std::optional<core::SocketAddress>& peer) const override;
    [[nodiscard]] std::vector<core::AdapterInfo> adapters() const override;
    [[nodiscard]] Expected<std::shared_ptr<core::Adapter>> open(
        const core::AdapterOptions& options) const override;
};

}  // namespace ndv::verbs

// SPDX-License-Identifier: Apache-2.0
// The verbs provider, whose adapters are one device of rdma-core each.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/provider.hpp"

namespace ndv::verbs {

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

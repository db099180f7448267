// SPDX-License-Identifier: Apache-2.0
// The one place that knows which providers this build has.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/expected.hpp"
#include "core/provider.hpp"

namespace ndv::providers {

[[nodiscard]] const std::vector<std::unique_ptr<core::Provider>>& builtin();

// What a user needs for each provider, looked at now; also for one that the build lacks.
[[nodiscard]] std::vector<std::pair<std::string, core::Finding>> diagnose();

// "soft", "soft:192.0.2.1", ...: the provider's name, then what the provider makes of the rest.
// "auto": an RDMA device with an active port, else soft; "auto:192.0.2.1": the device that leads
// to the address, else soft.
// `faults`: null: none.
[[nodiscard]] Expected<std::shared_ptr<core::Adapter>> open_adapter(
    const std::string& name, core::AdapterOptions options,
    const std::shared_ptr<core::Faults>& faults = nullptr);

}  // namespace ndv::providers

// SPDX-License-Identifier: Apache-2.0
// The soft protection domain, which makes regions, windows and queue pairs.
#pragma once

#include <memory>

#include "core/adapter.hpp"

namespace ndv::soft {

struct AdapterParts;

[[nodiscard]] std::shared_ptr<core::ProtectionDomain> make_protection_domain(
    std::shared_ptr<AdapterParts> parts, std::weak_ptr<core::Adapter> adapter);

}  // namespace ndv::soft

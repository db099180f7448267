// SPDX-License-Identifier: Apache-2.0
// Claims on local addresses.
#include "core/endpoints.hpp"

#include <netinet/in.h>

#include <cstring>

namespace ndv::core {
namespace {

bool is_wildcard(const SocketAddress& address) {
    if (address.family() == AF_INET) {
        return reinterpret_cast<const sockaddr_in*>(address.raw())->sin_addr.s_addr == INADDR_ANY;
    }
    const auto* v6 = reinterpret_cast<const sockaddr_in6*>(address.raw());
    return std::memcmp(&v6->sin6_addr, &in6addr_any, sizeof in6addr_any) == 0;
}

bool overlaps(const SocketAddress& one, const SocketAddress& other) {
    if (one.family() != other.family() || one.port() != other.port()) return false;
    return is_wildcard(one) || is_wildcard(other) || one.host() == other.host();
}

}  // namespace

std::shared_ptr<Claim> Claims::take(const SocketAddress& address) {
    const base::Lock lock(mutex_);
    std::erase_if(taken_, [](const auto& weak) { return weak.expired(); });
    for (const auto& weak : taken_) {
        const auto taken = weak.lock();
        if (taken && overlaps(taken->address, address)) return nullptr;
    }
    auto made = std::make_shared<Claim>(Claim{address});
    taken_.push_back(made);
    return made;
}

}  // namespace ndv::core

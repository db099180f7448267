// SPDX-License-Identifier: Apache-2.0
// The local addresses that an adapter's listeners, their connectors and shared endpoints hold. The
// kernel would give a port away again while connections of a closed listener live, or let a
// listener onto a shared endpoint's port; NDK does not.
#pragma once

#include <memory>
#include <vector>

#include "base/mutex.hpp"
#include "core/connection.hpp"

namespace ndv::core {

// Taken as long as somebody holds it: a listener and the connectors accepted through it, or a
// shared endpoint and the connectors that connect from it.
class Endpoint {
public:
    explicit Endpoint(const SocketAddress& address) : address_(address) {}
    [[nodiscard]] const SocketAddress& address() const { return address_; }

private:
    const SocketAddress address_;
};

class EndpointTable {
public:
    // Null: the address, or one that overlaps it, is taken. Its port is not 0.
    [[nodiscard]] std::shared_ptr<Endpoint> claim(const SocketAddress& address);

private:
    base::Mutex mutex_;
    std::vector<std::weak_ptr<Endpoint>> taken_ NDV_GUARDED_BY(mutex_);
};

}  // namespace ndv::core

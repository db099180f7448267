// SPDX-License-Identifier: Apache-2.0
// The local addresses that an adapter's listeners, their connectors and shared endpoints hold. The
// kernel would give a port away again while connections of a closed listener live, or let a
// listener onto a shared endpoint's port; NDK does not.
#pragma once

#include <memory>
#include <vector>

#include "base/live.hpp"
#include "base/mutex.hpp"
#include "core/address.hpp"
#include "core/object.hpp"

namespace ndv::core {

// Taken as long as it is held: by a listener and the connectors accepted through it, or by a
// shared endpoint and the connectors that connect from it.
struct Claim {
    const SocketAddress address;
};

// A local address that connectors to different peers connect from. It is taken until it is closed
// and the last of those connectors, too.
class SharedEndpoint : public Object, base::Live<base::LiveKind::shared_endpoint> {
public:
    [[nodiscard]] virtual SocketAddress local_address() const = 0;
};

class Claims {
public:
    // Null: the address, or one that overlaps it, is taken. Its port is not 0.
    [[nodiscard]] std::shared_ptr<Claim> take(const SocketAddress& address);

private:
    base::Mutex mutex_;
    std::vector<std::weak_ptr<Claim>> taken_ NDV_GUARDED_BY(mutex_);
};

}  // namespace ndv::core

// SPDX-License-Identifier: Apache-2.0
// DEBUG lines of the room "connection": what began or ended between which addresses.
#pragma once

#include <new>
#include <optional>
#include <string>

#include "base/log.hpp"
#include "core/connection.hpp"

namespace ndv::core {

inline void log_connection(const char* what, const std::optional<SocketAddress>& local,
                           const std::optional<SocketAddress>& peer) {
    if (!base::is_logged(base::LogLevel::debug)) return;
    const auto text = [](const auto& address) { return address ? address->text() : "?"; };
    try {
        base::log(base::LogLevel::debug, "connection",
                  std::string(what) + ": " + text(local) + " with " + text(peer));
    } catch (const std::bad_alloc&) {
        // In the middle of a change of state: rather a line less.
    }
}

}  // namespace ndv::core

// SPDX-License-Identifier: Apache-2.0
// Numeric socket addresses, and what the system's errors about them mean.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>

#include "base/expected.hpp"

namespace ndv::core {

// A numeric IPv4 or IPv6 address with a port.
struct SocketAddress {
    sockaddr_storage storage{};
    socklen_t length = 0;

    [[nodiscard]] static Expected<SocketAddress> parse(const std::string& host, std::uint16_t port);
    [[nodiscard]] std::string host() const;
    [[nodiscard]] std::uint16_t port() const;
    void set_port(std::uint16_t port);
    [[nodiscard]] std::string text() const;  // "host:port", "[v6]:port"
    [[nodiscard]] const sockaddr* raw() const {
        return reinterpret_cast<const sockaddr*>(&storage);
    }
    [[nodiscard]] sockaddr* raw() { return reinterpret_cast<sockaddr*>(&storage); }
    [[nodiscard]] int family() const { return storage.ss_family; }
};

// NDK's status for an errno of connect, bind or a stream.
[[nodiscard]] Status status_of(int os_error);

}  // namespace ndv::core

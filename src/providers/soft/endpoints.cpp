// SPDX-License-Identifier: Apache-2.0
// Sockets bound to local addresses.
#include "providers/soft/endpoints.hpp"

#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <string>
#include <utility>

#include "providers/soft/socket.hpp"

namespace ndv::soft {
// A paused listener does not listen, and keeps a port only that was asked for by its number; so
// for port 0 a probe finds the number.
Expected<base::Descriptor> bound_socket(core::SocketAddress address, const char* call) {
    const std::string text = std::string(call) + " " + address.text();
    const bool is_any_port = address.port() == 0;
    base::Descriptor probe;
    while (true) {
        base::Descriptor socket(
            ::socket(address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
        if (!socket) {
            return fail(status_of(errno), text + ": no socket",
                        "raise the limit on open files (ulimit -n)", errno);
        }
        const int on = 1;
        // Lets a restarted server have its port while old connections fade (TIME_WAIT).
        static_cast<void>(::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
        if (address.family() == AF_INET6) {
            static_cast<void>(
                ::setsockopt(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on));
        }
        if (::bind(socket.get(), address.raw(), address.length) != 0) {
            if (errno == EADDRINUSE && is_any_port) {
                return fail(Status::too_many_addresses, text + ": no port is free",
                            "close what holds them, or widen ip_local_port_range", errno);
            }
            return fail(status_of(errno), text + ": bind failed",
                        errno == EADDRINUSE ? "another program has the port: choose another, or 0"
                                            : "name an address of this host",
                        errno);
        }
        if (address.port() != 0) return socket;
        address.set_port(local_address_of(socket.get()).port());
        probe = std::move(socket);
    }
}

}  // namespace ndv::soft

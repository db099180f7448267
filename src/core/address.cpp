// SPDX-License-Identifier: Apache-2.0
// Reading and writing addresses as text.
#include "core/address.hpp"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>

#include <array>
#include <cerrno>
#include <charconv>

namespace ndv::core {

Expected<SocketAddress> SocketAddress::parse(const std::string& host, std::uint16_t port) {
    SocketAddress out;
    auto* v4 = reinterpret_cast<sockaddr_in*>(&out.storage);
    if (inet_pton(AF_INET, host.c_str(), &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        out.length = sizeof *v4;
        return out;
    }
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&out.storage);
    const std::size_t percent = host.find('%');
    if (inet_pton(AF_INET6, host.substr(0, percent).c_str(), &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        out.length = sizeof *v6;
        if (percent == std::string::npos) return out;
        const std::string scope = host.substr(percent + 1);
        v6->sin6_scope_id = if_nametoindex(scope.c_str());
        if (v6->sin6_scope_id == 0) {  // a number, as getnameinfo() gives it
            const char* const end = scope.data() + scope.size();
            const auto [at, problem] = std::from_chars(scope.data(), end, v6->sin6_scope_id);
            std::array<char, IF_NAMESIZE> name{};
            if (problem != std::errc{} || at != end ||
                if_indextoname(v6->sin6_scope_id, name.data()) == nullptr) {
                v6->sin6_scope_id = 0;
            }
        }
        if (v6->sin6_scope_id != 0) return out;
        return fail(Status::invalid_address, "no network interface \"" + scope + "\"");
    }
    return fail(Status::invalid_address, "\"" + host + "\" is not a numeric address",
                "name a host as an IPv4 or IPv6 address here");
}

std::string SocketAddress::host() const {
    std::array<char, INET6_ADDRSTRLEN + 1 + IF_NAMESIZE> text{};
    if (family() == AF_INET) {
        const auto* v4 = reinterpret_cast<const sockaddr_in*>(&storage);
        inet_ntop(AF_INET, &v4->sin_addr, text.data(), text.size());
        return text.data();
    }
    const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&storage);
    inet_ntop(AF_INET6, &v6->sin6_addr, text.data(), text.size());
    std::string out = text.data();
    if (v6->sin6_scope_id != 0 && if_indextoname(v6->sin6_scope_id, text.data()) != nullptr) {
        out += "%";
        out += text.data();
    }
    return out;
}

std::uint16_t SocketAddress::port() const {
    if (family() == AF_INET) {
        return ntohs(reinterpret_cast<const sockaddr_in*>(&storage)->sin_port);
    }
    return ntohs(reinterpret_cast<const sockaddr_in6*>(&storage)->sin6_port);
}

void SocketAddress::set_port(std::uint16_t port) {
    if (family() == AF_INET) {
        reinterpret_cast<sockaddr_in*>(&storage)->sin_port = htons(port);
    } else {
        reinterpret_cast<sockaddr_in6*>(&storage)->sin6_port = htons(port);
    }
}

std::string SocketAddress::text() const {
    const bool is_v6 = family() == AF_INET6;
    std::string text = is_v6 ? "[" : "";
    return text.append(host()).append(is_v6 ? "]:" : ":").append(std::to_string(port()));
}

Status status_of(int os_error) {
    switch (os_error) {
        case ECONNREFUSED:
            return Status::connection_refused;
        case ECONNRESET:
        case EPIPE:
            return Status::connection_reset;
        case ENETUNREACH:
        case ENETDOWN:
            return Status::network_unreachable;
        case EHOSTUNREACH:
        case EHOSTDOWN:
            return Status::host_unreachable;
        case ETIMEDOUT:
            return Status::io_timeout;
        case EADDRINUSE:
            return Status::sharing_violation;
        case EADDRNOTAVAIL:
        case EAFNOSUPPORT:
            return Status::invalid_address;
        case EACCES:
        case EPERM:
            return Status::access_denied;
        case EMFILE:
        case ENFILE:
        case ENOBUFS:
        case ENOMEM:
            return Status::insufficient_resources;
        default:
            return Status::unsuccessful;
    }
}

}  // namespace ndv::core

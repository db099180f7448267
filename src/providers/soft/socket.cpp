// SPDX-License-Identifier: Apache-2.0
// Options and addresses of TCP sockets.
#include "providers/soft/socket.hpp"

#include <ifaddrs.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>

namespace ndv::soft {
namespace {

#if !defined(SO_NETNS_COOKIE)
#define SO_NETNS_COOKIE 71  // Linux 5.14
#endif

constexpr int kLocalBuffer = 1024 * 1024;

int system_limit(const char* path) {
    std::ifstream file(path);
    int value = 0;
    file >> value;
    return value;
}

bool is_loopback(const core::SocketAddress& address) {
    if (address.family() == AF_INET) {
        const auto* v4 = reinterpret_cast<const sockaddr_in*>(address.raw());
        return (ntohl(v4->sin_addr.s_addr) >> 24U) == IN_LOOPBACKNET;
    }
    const auto* v6 = reinterpret_cast<const sockaddr_in6*>(address.raw());
    return IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr) ||
           (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr) && v6->sin6_addr.s6_addr[12] == IN_LOOPBACKNET);
}

}  // namespace

void prepare_socket(int fd, double keepalive_s) {
    const auto set = [fd](int level, int option, int value) {
        // These only tune; a kernel that lacks one still carries the stream.
        static_cast<void>(::setsockopt(fd, level, option, &value, sizeof value));
    };
    set(IPPROTO_TCP, TCP_NODELAY, 1);
    if (keepalive_s <= 0) return;
    // Idle for a third, then two probes a third apart.
    const int third = std::max(1, static_cast<int>(keepalive_s / 3));
    set(SOL_SOCKET, SO_KEEPALIVE, 1);
    set(IPPROTO_TCP, TCP_KEEPIDLE, third);
    set(IPPROTO_TCP, TCP_KEEPINTVL, third);
    set(IPPROTO_TCP, TCP_KEEPCNT, 2);
    // 0 would mean the system's own.
    set(IPPROTO_TCP, TCP_USER_TIMEOUT, std::max(1, static_cast<int>(keepalive_s * 1000)));
}

bool is_one_host(const core::SocketAddress& local, const core::SocketAddress& peer) {
    const std::string host = peer.host();
    if (is_loopback(peer) || is_loopback(local) || local.host() == host) return true;
    // Two addresses of this host.
    ifaddrs* all = nullptr;
    if (::getifaddrs(&all) != 0) return false;
    bool is_ours = false;
    for (const ifaddrs* one = all; one != nullptr && !is_ours; one = one->ifa_next) {
        if (one->ifa_addr == nullptr || one->ifa_addr->sa_family != peer.family()) continue;
        core::SocketAddress address;
        address.length = peer.length;
        std::memcpy(&address.storage, one->ifa_addr, peer.length);
        is_ours = address.host() == host;
    }
    ::freeifaddrs(all);
    return is_ours;
}

LocalBuffers::LocalBuffers()
    : is_allowed_(system_limit("/proc/sys/net/core/rmem_max") >= kLocalBuffer &&
                  system_limit("/proc/sys/net/core/wmem_max") >= kLocalBuffer) {}

void LocalBuffers::apply(int fd) const {
    if (!is_allowed_ || !is_one_host(local_address_of(fd), peer_address_of(fd))) return;
    static_cast<void>(::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kLocalBuffer, sizeof kLocalBuffer));
    static_cast<void>(::setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &kLocalBuffer, sizeof kLocalBuffer));
}

std::size_t segment_size(int fd) {
    int size = 0;
    socklen_t length = sizeof size;
    if (::getsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &size, &length) != 0 || size <= 0) {
        return 536;  // RFC 9293 section 3.7.1: what every path carries
    }
    return static_cast<std::size_t>(size);
}

core::SocketAddress local_address_of(int fd) {
    core::SocketAddress out;
    out.length = sizeof out.storage;
    if (::getsockname(fd, out.raw(), &out.length) != 0) out.length = 0;
    return out;
}

core::SocketAddress peer_address_of(int fd) {
    core::SocketAddress out;
    out.length = sizeof out.storage;
    if (::getpeername(fd, out.raw(), &out.length) != 0) out.length = 0;
    return out;
}

int unacknowledged(int fd) {
    int bytes = 0;
    return ::ioctl(fd, SIOCOUTQ, &bytes) == 0 ? bytes : 0;
}

std::string stream_name(int fd, bool of_peer) {
    core::SocketAddress first = local_address_of(fd);
    core::SocketAddress second = peer_address_of(fd);
    if (first.length == 0 || second.length == 0) return {};
    if (of_peer) std::swap(first, second);
    // Two namespaces may have the same pair of addresses; older kernels do not tell them apart.
    std::uint64_t cookie = 0;
    socklen_t size = sizeof cookie;
    static_cast<void>(::getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &size));
    return first.text() + " " + second.text() + " " + std::to_string(cookie);
}

}  // namespace ndv::soft

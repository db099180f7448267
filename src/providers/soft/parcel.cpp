// SPDX-License-Identifier: Apache-2.0
// Unix sockets: SCM_RIGHTS and SCM_CREDENTIALS.
#include "providers/soft/parcel.hpp"

#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>

namespace ndv::soft {
namespace {

// Of a process whose user has no number in this user namespace.
constexpr uid_t kOverflow = 65534;

// Abstract, of the network namespace; short whatever the name is.
socklen_t address_of(const std::string& name, sockaddr_un& out) {
    std::uint64_t hash = 0xCBF29CE484222325ULL;
    for (const char c : name) {
        hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ULL;
    }
    out = {};
    out.sun_family = AF_UNIX;
    const int length =
        std::snprintf(out.sun_path + 1, sizeof out.sun_path - 1, "ndverbs-direct-1/%016llx",
                      static_cast<unsigned long long>(hash));
    return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 +
                                  static_cast<std::size_t>(length));
}

bool wants_credentials(int socket) {
    const int on = 1;
    return ::setsockopt(socket, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0;
}

union Control {
    cmsghdr align;
    std::array<std::byte, CMSG_SPACE(sizeof(ucred)) + CMSG_SPACE(sizeof(int) * (Parcel::kMost + 1))>
        bytes;
};

}  // namespace

bool may_share_memory() { return ::getuid() == ::geteuid() && ::getuid() != kOverflow; }

bool make_pair(base::Descriptor& first, base::Descriptor& second) {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()) != 0) {
        return false;
    }
    first = base::Descriptor(ends[0]);
    second = base::Descriptor(ends[1]);
    return wants_credentials(ends[0]) && wants_credentials(ends[1]);
}

base::Descriptor hear_under(const std::string& name) {
    base::Descriptor made(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address{};
    const socklen_t length = address_of(name, address);
    if (!made || !wants_credentials(made.get()) ||
        ::bind(made.get(), reinterpret_cast<const sockaddr*>(&address), length) != 0) {
        return {};
    }
    return made;
}

bool send_parcel(int socket, const std::string& name, std::span<const std::byte> bytes,
                 std::span<const int> descriptors) {
    iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};
    Control control{};
    sockaddr_un address{};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    if (!name.empty()) {
        message.msg_namelen = address_of(name, address);
        message.msg_name = &address;
    }
    message.msg_control = control.bytes.data();
    message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size_bytes());
    return ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) ==
           static_cast<ssize_t>(bytes.size());
}

std::optional<Parcel> take_parcel(int socket, std::span<std::byte> bytes, std::size_t descriptors) {
    iovec piece{bytes.data(), bytes.size()};
    Control control{};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control.bytes.data();
    message.msg_controllen = control.bytes.size();
    const ssize_t size = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (size < 0) return std::nullopt;
    Parcel taken;
    std::size_t given = 0;
    bool is_ours = false;
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
         header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET) continue;
        if (header->cmsg_type == SCM_CREDENTIALS) {
            ucred from{};
            std::memcpy(&from, CMSG_DATA(header), sizeof from);
            taken.pid = from.pid;
            is_ours = from.uid == ::getuid();
        } else if (header->cmsg_type == SCM_RIGHTS) {
            given = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            for (std::size_t i = 0; i < given; ++i) {
                int fd = -1;
                std::memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
                base::Descriptor one(fd);  // closes what is too many
                if (i < Parcel::kMost) taken.descriptors[i] = std::move(one);
            }
        }
    }
    taken.count = std::min(given, Parcel::kMost);
    const bool is_whole = (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0 &&
                          static_cast<std::size_t>(size) == bytes.size() && given == descriptors;
    if (!is_ours || !is_whole || !may_share_memory()) return std::nullopt;
    return taken;
}

}  // namespace ndv::soft

// SPDX-License-Identifier: Apache-2.0
// A descriptor that select, poll and epoll see readable and writable as its owner says, both
// independently: one end of a pair of local sockets whose queues are filled and emptied. A change
// costs one system call. The owner serialises the calls.
#pragma once

#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstddef>

#include "base/descriptor.hpp"
#include "base/expected.hpp"

namespace ndv::stream {

class Readiness {
public:
    // Neither readable nor writable at first.
    [[nodiscard]] static Expected<Readiness> create() {
        std::array<int, 2> pair{};
        if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair.data()) !=
            0) {
            return fail(Status::insufficient_resources, "fileno: no descriptors",
                        "raise the limit on open files (ulimit -n)", errno);
        }
        Readiness made;
        made.shown_ = base::Descriptor(pair[0]);
        made.other_ = base::Descriptor(pair[1]);
        // The smallest that the kernel gives (4608); one packet of kFill leaves no room in it.
        const int smallest = 0;
        static_cast<void>(::setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &smallest, sizeof smallest));
        made.is_writable_ = true;
        made.set(false, false);
        return made;
    }

    [[nodiscard]] int descriptor() const { return shown_.get(); }

    void set(bool is_readable, bool is_writable) {
        if (is_readable != is_readable_) {
            is_readable_ = is_readable;
            if (is_readable) {
                push(other_.get(), 1);
            } else {
                drain(shown_.get());
            }
        }
        if (is_writable != is_writable_) {
            is_writable_ = is_writable;
            if (is_writable) {
                drain(other_.get());
            } else {
                push(shown_.get(), kFill);
            }
        }
    }

private:
    static constexpr std::size_t kFill = 4096;

    // One packet is in a queue, or none; what does not fit a byte is dropped with the packet.
    static void push(int fd, std::size_t size) {
        static constexpr std::array<std::byte, kFill> bytes{};
        static_cast<void>(!::send(fd, bytes.data(), size, MSG_DONTWAIT | MSG_NOSIGNAL));
    }
    static void drain(int fd) {
        std::array<std::byte, 1> byte;
        static_cast<void>(!::recv(fd, byte.data(), byte.size(), MSG_DONTWAIT));
    }

    base::Descriptor shown_;
    base::Descriptor other_;
    bool is_readable_ = false;
    bool is_writable_ = false;
};

}  // namespace ndv::stream

// SPDX-License-Identifier: Apache-2.0
// TCP sockets as links.
#include "providers/soft/link.hpp"

#include <sys/socket.h>

#include <cerrno>

namespace ndv::soft {
namespace {

LinkResult result_of(ssize_t moved, bool is_read) {
    if (moved > 0 || (moved == 0 && !is_read)) {
        return {LinkResult::Kind::moved, static_cast<std::size_t>(moved), 0};
    }
    if (moved == 0) return {LinkResult::Kind::end, 0, 0};
    if (errno == EAGAIN || errno == EWOULDBLOCK) return {LinkResult::Kind::would_block, 0, 0};
    return {LinkResult::Kind::error, 0, errno};
}

}  // namespace

LinkResult TcpLink::read(const iovec* pieces, std::size_t count) {
    ssize_t moved = 0;
    do {
        if (count == 1) {
            moved = ::recv(socket_.get(), pieces[0].iov_base, pieces[0].iov_len, MSG_DONTWAIT);
        } else {
            msghdr message{};
            message.msg_iov = const_cast<iovec*>(pieces);
            message.msg_iovlen = count;
            moved = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT);
        }
    } while (moved < 0 && errno == EINTR);
    return result_of(moved, true);
}

LinkResult TcpLink::write(const iovec* pieces, std::size_t count, bool end_of_record) {
    const int flags = MSG_DONTWAIT | MSG_NOSIGNAL | (end_of_record ? MSG_EOR : 0);
    ssize_t moved = 0;
    do {
        if (count == 1) {
            moved = ::send(socket_.get(), pieces[0].iov_base, pieces[0].iov_len, flags);
        } else {
            msghdr message{};
            message.msg_iov = const_cast<iovec*>(pieces);
            message.msg_iovlen = count;
            moved = ::sendmsg(socket_.get(), &message, flags);
        }
    } while (moved < 0 && errno == EINTR);
    return result_of(moved, false);
}

LinkResult TcpLink::peek() const {
    std::byte byte;
    return result_of(::recv(socket_.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT), true);
}

void TcpLink::shut_write() { ::shutdown(socket_.get(), SHUT_WR); }

int TcpLink::take_error() {
    int os_error = 0;
    socklen_t length = sizeof os_error;
    static_cast<void>(::getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &os_error, &length));
    return os_error;
}

void TcpLink::reset_at_close() {
    const linger now{1, 0};
    static_cast<void>(::setsockopt(socket_.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now));
}

}  // namespace ndv::soft

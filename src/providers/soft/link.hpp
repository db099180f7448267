// SPDX-License-Identifier: Apache-2.0
// A link carries the bytes of one stream. Tracing, capture, delay and faults are decorators.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <memory>

#include "base/descriptor.hpp"
#include "base/live.hpp"
#include "core/connection.hpp"

namespace ndv::soft {

struct LinkResult {
    enum class Kind : unsigned char { moved, would_block, end, error };
    Kind kind = Kind::moved;
    std::size_t size = 0;  // bytes moved
    int os_error = 0;
};

class Link {
public:
    Link() = default;
    Link(const Link&) = delete;
    Link& operator=(const Link&) = delete;
    virtual ~Link() = default;

    // Neither blocks. `end_of_record`: later bytes start a new TCP segment (RFC 5044 section 5).
    [[nodiscard]] virtual LinkResult read(const iovec* pieces, std::size_t count) = 0;
    [[nodiscard]] virtual LinkResult write(const iovec* pieces, std::size_t count,
                                           bool end_of_record) = 0;
    virtual void shut_write() = 0;
    // What broke the stream, or 0, for a time when nothing is read or written.
    [[nodiscard]] int take_error() const;
    // Its destruction resets the stream, where an end in order would say something else.
    void reset_at_close() const;
    [[nodiscard]] virtual int descriptor() const = 0;
};

class TcpLink final : public Link, base::Live<base::LiveKind::link> {
public:
    explicit TcpLink(base::Descriptor socket) : socket_(std::move(socket)) {}

    [[nodiscard]] LinkResult read(const iovec* pieces, std::size_t count) override;
    [[nodiscard]] LinkResult write(const iovec* pieces, std::size_t count,
                                   bool end_of_record) override;
    void shut_write() override;
    [[nodiscard]] int descriptor() const override { return socket_.get(); }

private:
    base::Descriptor socket_;
};

// Non-blocking, no Nagle, keepalive so that a peer on a dead host is noticed within `keepalive_s`.
void prepare_socket(int fd, double keepalive_s);
// Whether both addresses of a stream are this host's.
[[nodiscard]] bool is_one_host(const core::SocketAddress& local, const core::SocketAddress& peer);
// Between two sockets of one host, autotuned buffers grow beyond the caches and slow the copies
// down. Where the system lets a program choose 1 MiB, that is what both ends get.
class LocalBuffers {
public:
    LocalBuffers();
    void apply(int fd) const;  // after connect or accept; does nothing for other hosts

private:
    bool is_allowed_ = false;
};
// What one TCP segment carries now.
[[nodiscard]] std::size_t segment_size(int fd);
[[nodiscard]] core::SocketAddress local_address_of(int fd);
[[nodiscard]] core::SocketAddress peer_address_of(int fd);
// Bytes that the peer's TCP has not acknowledged.
[[nodiscard]] int unacknowledged(int fd);
using core::status_of;

}  // namespace ndv::soft

// SPDX-License-Identifier: Apache-2.0
// TCP sockets before they are links: options, buffers, addresses.
#pragma once

#include <cstddef>
#include <string>

#include "core/address.hpp"

namespace ndv::soft {

using core::status_of;

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
// The two addresses, as the socket or its peer has them, and the network namespace; empty: the
// stream is not connected.
[[nodiscard]] std::string stream_name(int fd, bool of_peer);
// Bytes that the peer's TCP has not acknowledged.
[[nodiscard]] int unacknowledged(int fd);

}  // namespace ndv::soft

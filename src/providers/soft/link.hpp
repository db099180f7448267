// SPDX-License-Identifier: Apache-2.0
// A link carries the bytes of one stream. Tracing, capture, delay and faults are decorators. All
// that its users ask is here; its descriptor is for epoll, and may be another thing than a socket.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <limits>
#include <string>

#include "base/descriptor.hpp"
#include "base/live.hpp"
#include "providers/soft/socket.hpp"

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
    // What read() would find, without taking it; moved: bytes wait.
    [[nodiscard]] virtual LinkResult peek() const = 0;
    virtual void shut_write() = 0;
    // Level-triggered: readable while read() would not block, writable while write() would not.
    [[nodiscard]] virtual int descriptor() const = 0;

    // From here on a link says what differs from this.

    // What broke the stream, or 0, for a time when nothing is read or written.
    [[nodiscard]] virtual int take_error() { return 0; }
    // Its destruction resets the stream, where an end in order would say something else.
    virtual void reset_at_close() {}
    // Nothing passes, not even an end, for as long as the program of this side wants that.
    [[nodiscard]] virtual bool is_stalled() const { return false; }
    // What one segment carries now; a link without segments sets FPDUs no limit.
    [[nodiscard]] virtual std::size_t segment_size() const {
        return std::numeric_limits<std::size_t>::max();
    }
    // Whether the peer's host may not have everything that was written.
    [[nodiscard]] virtual bool has_unacknowledged() const { return false; }
    // After the stream is connected.
    virtual void fit(const LocalBuffers&) {}
    // Names the stream in this process, for one end as seen from the other: the name of this one's
    // own side, or of its peer's. Empty: none has it.
    [[nodiscard]] virtual std::string name(bool of_peer) const {
        static_cast<void>(of_peer);
        return {};
    }
    // Of length 0 where there is none.
    [[nodiscard]] virtual core::SocketAddress local_address() const { return {}; }
    [[nodiscard]] virtual core::SocketAddress peer_address() const { return {}; }
};

class TcpLink final : public Link, base::Live<base::LiveKind::link> {
public:
    explicit TcpLink(base::Descriptor socket) : socket_(std::move(socket)) {}

    [[nodiscard]] LinkResult read(const iovec* pieces, std::size_t count) override;
    [[nodiscard]] LinkResult write(const iovec* pieces, std::size_t count,
                                   bool end_of_record) override;
    [[nodiscard]] LinkResult peek() const override;
    void shut_write() override;
    [[nodiscard]] int descriptor() const override { return socket_.get(); }
    [[nodiscard]] int take_error() override;
    void reset_at_close() override;
    [[nodiscard]] std::size_t segment_size() const override {
        return soft::segment_size(socket_.get());
    }
    [[nodiscard]] bool has_unacknowledged() const override {
        return unacknowledged(socket_.get()) > 0;
    }
    void fit(const LocalBuffers& buffers) override { buffers.apply(socket_.get()); }
    [[nodiscard]] std::string name(bool of_peer) const override {
        return stream_name(socket_.get(), of_peer);
    }
    [[nodiscard]] core::SocketAddress local_address() const override {
        return local_address_of(socket_.get());
    }
    [[nodiscard]] core::SocketAddress peer_address() const override {
        return peer_address_of(socket_.get());
    }

private:
    const base::Descriptor socket_;
};

}  // namespace ndv::soft

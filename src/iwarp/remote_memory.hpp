// SPDX-License-Identifier: Apache-2.0
// What the engine needs to know about memory that peers may name: a lookup that pins, and what
// makes and ends such memory in the order of the send queue.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>

#include "base/status.hpp"

namespace ndv::iwarp {

// RFC 5040 section 7.2 and RFC 5041 section 7.1, in the order in which the checks are made.
enum class AccessResult : std::uint8_t {
    granted,
    invalid_stag,
    not_associated,  // the STag belongs to another protection domain
    denied,          // the region does not grant the right
    wrap,            // TO + length passes 2^64
    bounds,
};

// Memory that stays in place, and registered, until it is unpinned; never held across steps.
struct Pin {
    std::byte* data = nullptr;     // the first byte
    std::uint64_t contiguous = 0;  // bytes from it on in one piece: all of them, unless scattered
    std::uint64_t offset = 0;      // scattered: of the first byte, in what the entry names
    void* entry = nullptr;
};

struct SendRequest;

enum class RemoteRight : std::uint8_t { read, write, atomic };

class RemoteMemory {
public:
    RemoteMemory() = default;
    RemoteMemory(const RemoteMemory&) = delete;
    RemoteMemory& operator=(const RemoteMemory&) = delete;

    [[nodiscard]] virtual AccessResult pin(std::uint32_t stag, std::uint64_t to,
                                           std::uint32_t length, RemoteRight right, Pin& out) = 0;
    virtual void unpin(const Pin& pin) = 0;
    // The part [offset, offset + length) of pinned memory that is not in one piece, as at most
    // `max` pieces.
    [[nodiscard]] virtual std::size_t scatter(const Pin& pin, std::uint64_t offset,
                                              std::size_t length, iovec* out, std::size_t max) = 0;
    // Send with Invalidate: granted means that the STag is dead now.
    [[nodiscard]] virtual AccessResult invalidate(std::uint32_t stag) = 0;
    // A bind, fast_register or invalidate of the send queue whose turn has come. Called, as the
    // two other functions that end memory, while this engine holds no pin: it may wait for pins
    // of other connections' steps.
    [[nodiscard]] virtual Status execute(const SendRequest& request) = 0;
    // A read with local invalidate has its data.
    [[nodiscard]] virtual Status invalidate_sink(std::uint32_t stag) = 0;

protected:
    ~RemoteMemory() = default;
};

// Pieces of the part [offset, offset + length) of pinned memory.
inline std::size_t slice_pin(RemoteMemory& memory, const Pin& pin, std::uint64_t offset,
                             std::size_t length, iovec* out, std::size_t max) {
    if (length == 0 || max == 0) return 0;
    if (offset + length <= pin.contiguous) {
        out[0] = {pin.data + offset, length};
        return 1;
    }
    return memory.scatter(pin, offset, length, out, max);
}

}  // namespace ndv::iwarp

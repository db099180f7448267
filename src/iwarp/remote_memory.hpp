// SPDX-License-Identifier: Apache-2.0
// What the engine needs to know about memory that peers may name: a lookup that pins.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ndv::iwarp {

// RFC 5040 section 7.1 and RFC 5041 section 7.1, in the order in which the checks are made.
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
    std::byte* data = nullptr;
    void* entry = nullptr;
};

enum class RemoteRight : std::uint8_t { read, write };

class RemoteMemory {
public:
    RemoteMemory() = default;
    RemoteMemory(const RemoteMemory&) = delete;
    RemoteMemory& operator=(const RemoteMemory&) = delete;

    [[nodiscard]] virtual AccessResult pin(std::uint32_t stag, std::uint64_t to,
                                           std::uint32_t length, RemoteRight right, Pin& out) = 0;
    virtual void unpin(const Pin& pin) = 0;
    // Send with Invalidate: granted means that the STag is dead now.
    [[nodiscard]] virtual AccessResult invalidate(std::uint32_t stag) = 0;

protected:
    ~RemoteMemory() = default;
};

}  // namespace ndv::iwarp

// SPDX-License-Identifier: Apache-2.0
// How the requests of one end get to the memory of the other. The checks are those that the peer
// would make, and what they grant stays what it is until it is let go.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>

#include "iwarp/remote_memory.hpp"

namespace ndv::direct {

enum class Way : std::uint8_t {
    loads,    // it is in this address space: stores, loads and atomics of the CPU
    calls,    // the kernel copies
    carried,  // the peer executes the request, which goes through the ring
};

struct Grip {
    Way way = Way::loads;
    iwarp::Pin pin;
};

class Reach {
public:
    // Of receives; tokens have other values.
    static constexpr std::uint64_t kReceives = 1;

    Reach() = default;
    Reach(const Reach&) = delete;
    Reach& operator=(const Reach&) = delete;
    virtual ~Reach() = default;

    // What the hazard word says while memory with the token is touched; not 0. The peer that ends
    // that memory waits for this value to go.
    [[nodiscard]] virtual std::uint64_t hazard(std::uint32_t token) = 0;
    // Behind the hazard.
    [[nodiscard]] virtual iwarp::AccessResult take(std::uint32_t token, std::uint64_t address,
                                                   std::uint32_t length, iwarp::RemoteRight right,
                                                   Grip& out) = 0;
    // Optional. Where that is, if it is granted and lies in one piece of this address space. It
    // stays while the hazard is set, and there is nothing to let go.
    [[nodiscard]] virtual std::byte* find(std::uint32_t, std::uint64_t, std::uint32_t,
                                          iwarp::RemoteRight) {
        return nullptr;
    }
    // A receive of the peer's, by its place. False: it is not within reach.
    [[nodiscard]] virtual bool take_receive(std::uint64_t place, std::uint32_t length,
                                            Grip& out) = 0;
    virtual void let_go(const Grip& grip) = 0;
    // loads: of the part [offset, offset + length).
    [[nodiscard]] virtual std::size_t pieces(const Grip& grip, std::size_t offset,
                                             std::size_t length, iovec* out, std::size_t max) = 0;
    // calls: moves all of `ours` to or from what begins at `offset`. Returns the bytes; less: the
    // kernel refuses, and the way is another one from now on, or the peer is gone.
    [[nodiscard]] virtual std::size_t call(const Grip& grip, std::size_t offset,
                                           iwarp::RemoteRight right, const iovec* ours,
                                           std::size_t count) = 0;

    // The other way round: what the peer's take_receive() makes of memory of this end.
    [[nodiscard]] virtual std::uint64_t place_of(const std::byte* data, std::size_t size) = 0;
};

// Of an end in the same process.
class NearReach : public Reach {
public:
    explicit NearReach(iwarp::RemoteMemory& memory) : memory_(memory) {}

    [[nodiscard]] std::uint64_t hazard(std::uint32_t) override { return kReceives; }
    [[nodiscard]] iwarp::AccessResult take(std::uint32_t token, std::uint64_t address,
                                           std::uint32_t length, iwarp::RemoteRight right,
                                           Grip& out) override {
        return memory_.pin(token, address, length, right, out.pin);
    }
    [[nodiscard]] bool take_receive(std::uint64_t place, std::uint32_t length, Grip& out) override {
        out.pin = {reinterpret_cast<std::byte*>(place), length, 0, nullptr};
        return true;
    }
    void let_go(const Grip& grip) override {
        if (grip.pin.entry != nullptr) memory_.unpin(grip.pin);
    }
    [[nodiscard]] std::size_t pieces(const Grip& grip, std::size_t offset, std::size_t length,
                                     iovec* out, std::size_t max) override {
        return iwarp::slice_pin(memory_, grip.pin, offset, length, out, max);
    }
    [[nodiscard]] std::size_t call(const Grip&, std::size_t, iwarp::RemoteRight, const iovec*,
                                   std::size_t) override {
        return 0;
    }
    [[nodiscard]] std::uint64_t place_of(const std::byte* data, std::size_t) override {
        return reinterpret_cast<std::uint64_t>(data);
    }

private:
    iwarp::RemoteMemory& memory_;
};

}  // namespace ndv::direct

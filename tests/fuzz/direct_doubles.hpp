// SPDX-License-Identifier: Apache-2.0
// What direct.cpp puts around one end of a direct connection: its input, and memory of both ends
// that tells of every look-up.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>

#include "../native/engine_fixture.hpp"
#include "direct/stream.hpp"

namespace ndv::testing {

// Not assert(): it also runs where NDEBUG is set.
inline void require(bool is_true, const char* sentence) {
    if (is_true) return;
    std::fprintf(stderr, "broken promise: %s\n", sentence);
    std::abort();
}

class Input {
public:
    explicit Input(std::span<const std::byte> bytes) : bytes_(bytes) {}
    [[nodiscard]] bool is_over() const { return bytes_.empty(); }
    template <typename Number>
    Number take() {
        Number out = 0;
        const auto bytes = some(sizeof out);
        if (!bytes.empty()) std::memcpy(&out, bytes.data(), bytes.size());
        return out;
    }
    // At most that many.
    std::span<const std::byte> some(std::size_t size) {
        const auto out = bytes_.first(std::min(size, bytes_.size()));
        bytes_ = bytes_.subspan(out.size());
        return out;
    }

private:
    std::span<const std::byte> bytes_;
};

// A moment in the middle of a step, in which the peer may write.
class Moment {
public:
    Moment() = default;
    Moment(const Moment&) = delete;
    Moment& operator=(const Moment&) = delete;
    virtual void pass() = 0;

protected:
    ~Moment() = default;
};

// Of this end, for the peer.
class WatchedMemory final : public iwarp::RemoteMemory {
public:
    WatchedMemory(FakeMemory& memory, Moment& moment) : memory_(memory), moment_(moment) {}
    iwarp::AccessResult pin(std::uint32_t stag, std::uint64_t to, std::uint32_t length,
                            iwarp::RemoteRight right, iwarp::Pin& out) override {
        moment_.pass();
        return memory_.pin(stag, to, length, right, out);
    }
    void unpin(const iwarp::Pin& pin) override {
        memory_.unpin(pin);
        moment_.pass();
    }
    std::size_t scatter(const iwarp::Pin& pin, std::uint64_t offset, std::size_t length, iovec* out,
                        std::size_t max) override {
        return memory_.scatter(pin, offset, length, out, max);
    }
    iwarp::AccessResult invalidate(std::uint32_t stag) override {
        moment_.pass();
        return memory_.invalidate(stag);
    }
    Status execute(const iwarp::SendRequest& request) override { return memory_.execute(request); }
    Status invalidate_sink(std::uint32_t stag) override { return memory_.invalidate_sink(stag); }

private:
    FakeMemory& memory_;
    Moment& moment_;
};

// Of the peer's memory. Its receives lie in `offered`, at places which count from its first byte.
class WatchedReach final : public direct::Reach {
public:
    WatchedReach(direct::Way way, FakeMemory& memory, std::span<std::byte> offered, Moment& moment)
        : way_(way), memory_(memory), offered_(offered), moment_(moment) {}

    std::uint64_t hazard(std::uint32_t token) override { return std::uint64_t{token} + 2; }
    iwarp::AccessResult take(std::uint32_t token, std::uint64_t address, std::uint32_t length,
                             iwarp::RemoteRight right, direct::Grip& out) override {
        moment_.pass();
        const bool is_called = way_ == direct::Way::calls;
        out.way = is_called && right == iwarp::RemoteRight::atomic ? direct::Way::carried : way_;
        return memory_.pin(token, address, length, right, out.pin);
    }
    bool take_receive(std::uint64_t place, std::uint32_t length, direct::Grip& out) override {
        moment_.pass();
        if (way_ == direct::Way::carried || length > offered_.size() ||
            place > offered_.size() - length) {
            return false;
        }
        out.way = way_;
        out.pin = {offered_.data() + place, length, 0, nullptr};
        return true;
    }
    void let_go(const direct::Grip& grip) override {
        memory_.unpin(grip.pin);
        moment_.pass();
    }
    std::size_t pieces(const direct::Grip& grip, std::size_t offset, std::size_t length, iovec* out,
                       std::size_t max) override {
        require(grip.way == direct::Way::loads, "what is not within reach is not touched");
        return iwarp::slice_pin(memory_, grip.pin, offset, length, out, max);
    }
    std::size_t call(const direct::Grip& grip, std::size_t offset, iwarp::RemoteRight right,
                     const iovec* ours, std::size_t count) override {
        moment_.pass();
        if (calls_ == 0) return 0;
        --calls_;
        std::size_t moved = 0;
        for (std::size_t i = 0; i < count; ++i) {
            std::byte* const theirs = grip.pin.data + offset + moved;
            const bool is_write = right == iwarp::RemoteRight::write;
            std::memcpy(is_write ? theirs : ours[i].iov_base, is_write ? ours[i].iov_base : theirs,
                        ours[i].iov_len);
            moved += ours[i].iov_len;
        }
        return moved;
    }
    std::uint64_t place_of(const std::byte*, std::size_t) override { return 0; }

    // How often the kernel still copies.
    void allow_calls(unsigned calls) { calls_ = calls; }

private:
    const direct::Way way_;
    FakeMemory& memory_;
    const std::span<std::byte> offered_;
    Moment& moment_;
    unsigned calls_ = 5;
};

}  // namespace ndv::testing

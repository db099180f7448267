// SPDX-License-Identifier: Apache-2.0
// How the two ends of a TCP connection find each other in this process, and agree to share memory
// from then on. The pair of addresses that a socket is connected with names one connection of a
// network namespace: the end that holds the other socket of it is the peer, and no other is.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "base/descriptor.hpp"
#include "direct/segment.hpp"
#include "providers/soft/link.hpp"
#include "providers/soft/memory_table.hpp"

namespace ndv::soft {

// What one end lets the other reach: the memory that its queue pair's peer may name.
struct Reach {
    std::shared_ptr<MemoryTable> table;
    std::uint64_t domain = 0;
    std::uint64_t queue_pair = 0;
};

// The passive end offers it with its answer. The active end takes it up before it sends the first
// byte of its stream, or the passive end takes it back before it sends its own: one of the two.
class Meeting {
public:
    // Makes it found under the addresses of `link`, for as long as it lives.
    [[nodiscard]] static std::shared_ptr<Meeting> offer(const Link& link, Reach passive);
    // The offer of the other end of `link`; null: it is in no adapter of this process, or does not
    // want it.
    [[nodiscard]] static std::shared_ptr<Meeting> find(const Link& link);

    Meeting(std::string name, Reach passive);
    Meeting(const Meeting&) = delete;
    Meeting& operator=(const Meeting&) = delete;
    ~Meeting();

    // Active. False: it was taken back, or there are no means; the connection goes on by TCP.
    [[nodiscard]] bool take_up(Reach active);
    // Passive. False: it was taken up.
    [[nodiscard]] bool take_back();

    // Once it is taken up. `is_active`: of that end.
    [[nodiscard]] const std::shared_ptr<direct::Segment>& segment() const { return segment_; }
    [[nodiscard]] const Reach& reach(bool is_active) const { return reaches_[is_active ? 1 : 0]; }
    // An eventfd: readable when the other end has something for a thread that sleeps.
    [[nodiscard]] int bell(bool is_active) const { return bells_[is_active ? 1 : 0].get(); }

private:
    enum class State : std::uint8_t { offered, taken_up, taken_back };

    const std::string name_;
    std::array<Reach, 2> reaches_;
    std::shared_ptr<direct::Segment> segment_;
    std::array<base::Descriptor, 2> bells_;
    std::atomic<State> state_{State::offered};
};

}  // namespace ndv::soft

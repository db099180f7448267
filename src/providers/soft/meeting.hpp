// SPDX-License-Identifier: Apache-2.0
// How the two ends of a TCP connection find each other on this host, and agree to share memory
// from then on. The pair of addresses that a socket is connected with names one connection of a
// network namespace: the end that holds the other socket of it is the peer, and no other is.
//
// Two ends in one process have one meeting. In two processes each has its own, and the segment
// between them; they speak by a Unix socket that the passive end has under the connection's name:
// the active end's hello, with one end of a pair of sockets, the offer, and the answer.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "base/descriptor.hpp"
#include "base/mutex.hpp"
#include "base/shared_memory.hpp"
#include "direct/reach.hpp"
#include "direct/segment.hpp"
#include "providers/soft/link.hpp"
#include "providers/soft/memory_table.hpp"
#include "providers/soft/parcel.hpp"
#include "providers/soft/peer_process.hpp"
#include "providers/soft/progress.hpp"

namespace ndv::soft {

// What the objects of one adapter need to meet others.
struct Acquaintance {
    AdapterId id{};
    bool may_call = true;  // the kernel may copy between the processes
    PeerProcesses processes;
};

// What one end lets the other reach: the memory that its queue pair's peer may name.
struct Reach {
    std::shared_ptr<MemoryTable> table;
    std::uint64_t domain = 0;
    std::uint64_t queue_pair = 0;
};

class Invitation;

// The passive end offers it with its answer. The active end takes it up before it sends the first
// byte of its stream, or the passive end takes it back before it sends its own: one of the two.
class Meeting final : public FarUser, public std::enable_shared_from_this<Meeting> {
public:
    // Makes it found under the addresses of `link`, for as long as it lives; from other processes,
    // too, with an `acquaintance`.
    [[nodiscard]] static std::shared_ptr<Meeting> offer(
        const Link& link, Reach passive, const std::shared_ptr<Progress>& progress,
        const std::shared_ptr<Acquaintance>& acquaintance);
    // The offer of the other end of `link`; null: it is in no adapter of this process, or does not
    // want it.
    [[nodiscard]] static std::shared_ptr<Meeting> find(const Link& link);
    // Active: what came of a hello, by `pair`; null: nothing that is good.
    [[nodiscard]] static std::shared_ptr<Meeting> take_offer(
        base::Descriptor pair, std::shared_ptr<MemoryTable> own,
        const std::shared_ptr<Progress>& progress,
        const std::shared_ptr<Acquaintance>& acquaintance);

    // Use the above.
    Meeting(std::string name, std::shared_ptr<Progress> progress,
            std::shared_ptr<Acquaintance> acquaintance, bool is_active);
    ~Meeting() override;

    // Active. False: it was taken back, or there are no means; the connection goes on by TCP.
    [[nodiscard]] bool take_up(Reach active);
    // Passive. False: it was taken up.
    [[nodiscard]] bool take_back();
    // Active, in the same process: it will take it up.
    void greet();
    // Passive: an active end has said hello. It will speak first.
    [[nodiscard]] bool is_awaited() const;

    // Once it is taken up. `is_active`: of that end.
    [[nodiscard]] const std::shared_ptr<direct::Segment>& segment() const { return segment_; }
    // Null: the peer has not said where it is.
    [[nodiscard]] std::unique_ptr<direct::Reach> make_reach(bool is_active) const;
    // An eventfd: readable when the other end has something for a thread that sleeps.
    [[nodiscard]] int bell(bool is_active) const { return bells_[is_active ? 1 : 0].get(); }
    // Something of the peer may still run.
    [[nodiscard]] bool lives_peer() const;
    // "direct", with "+vm" where the kernel copies what this process does not map.
    [[nodiscard]] const char* transport() const;
    [[nodiscard]] bool reaches_all() const { return !peer_ || peer_->can_call(); }

    // FarUser.
    [[nodiscard]] bool touches(std::uint64_t hazard) const override;

private:
    friend class Invitation;
    enum class State : std::uint8_t { offered, taken_up, taken_back, awaited };

    void make_offer(base::Descriptor pair);
    [[nodiscard]] bool make_means();
    [[nodiscard]] bool take_answer();
    void stop_hearing();
    void leave_memory();
    [[nodiscard]] Introduction introduce(const Reach& own) const;
    [[nodiscard]] const Reach& own() const { return reaches_[is_active_ ? 1 : 0]; }

    const std::string name_;
    const std::shared_ptr<Progress> progress_;
    const std::shared_ptr<Acquaintance> acquaintance_;  // null: of one process
    const bool is_active_;                              // of two
    const unsigned made_in_ = base::fork_generation();
    // Written before the state is; constant once it is taken up.
    std::array<Reach, 2> reaches_;
    std::shared_ptr<direct::Segment> segment_;
    std::array<base::Descriptor, 2> bells_;
    mutable base::Mutex mutex_;
    State state_ NDV_GUARDED_BY(mutex_) = State::offered;
    bool is_greeted_ NDV_GUARDED_BY(mutex_) = false;

    // Of two processes.
    base::Descriptor segment_file_;
    base::Descriptor pair_;  // open for as long as the peer is to know that this end is there
    std::shared_ptr<PeerProcess> peer_;
    Introduction theirs_;
    std::shared_ptr<Invitation> invitation_;
};

// Active: says hello to the passive end of `link`. No descriptor: none is there that would answer.
[[nodiscard]] base::Descriptor say_hello(const Link& link);

}  // namespace ndv::soft

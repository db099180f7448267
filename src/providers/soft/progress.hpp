// SPDX-License-Identifier: Apache-2.0
// The soft adapter's progress thread: core's, which also reads sockets empty that are closing, and
// looks when peers let go of memory that has ended.
#pragma once

#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "base/mutex.hpp"
#include "core/progress.hpp"
#include "providers/soft/link.hpp"

namespace ndv::soft {

using core::kLeaseTime;
using core::Lease;
using core::Member;
using core::now;
using core::Time;

class Lingerer;

// What a peer in another process, which may be stopped, has in hand of something that has ended.
class Remnant {
public:
    Remnant() = default;
    Remnant(const Remnant&) = delete;
    Remnant& operator=(const Remnant&) = delete;
    virtual ~Remnant() = default;
    // False: the peer has not let go. True: it has, and will not be asked again.
    [[nodiscard]] virtual bool end() = 0;
};

// A part of the descriptors that this process may have, `most` at most.
[[nodiscard]] std::size_t part_of_descriptors(std::size_t divisor, std::size_t most);

class Progress final : public core::Progress {
public:
    ~Progress() override { stop(); }

    // known: it has had a connection, or was called by us. Strangers are counted apart, so that
    // they take no place from others.
    enum class Peer : std::uint8_t { stranger, known };
    // Reads and drops what still comes, until the peer closes or 5 s pass; then closes. Over an
    // eighth of the process's descriptors, a half for known ones, and over 1024, the one that
    // lingers the longest is closed.
    void linger(std::unique_ptr<Link> link, Peer peer);
    // Closes the one that lingers the longest; false: there is none.
    bool drop_oldest(Peer peer);
    [[nodiscard]] std::size_t lingering() const;

    // Until it has ended: looks again and again.
    void keep(std::shared_ptr<Remnant> remnant);
    [[nodiscard]] std::size_t kept() const;
    // A queue pair waits for the same, or does so no more.
    void note_waiting(bool waits);

    // Blocks until nothing lingers, then ends the thread. What peers have in hand after 5 s stays
    // as it is for good.
    void stop();

private:
    friend class Lingerer;
    class Looks;
    // By id, which rises: the oldest comes first.
    using Lingerers = std::map<std::uint64_t, std::shared_ptr<Lingerer>>;

    void let_go(Lingerer& lingerer);
    void look();

    mutable base::Mutex lingering_mutex_;
    std::array<Lingerers, 2> lingering_ NDV_GUARDED_BY(lingering_mutex_);  // by Peer
    std::vector<std::shared_ptr<Remnant>> kept_ NDV_GUARDED_BY(lingering_mutex_);
    std::size_t waiting_ NDV_GUARDED_BY(lingering_mutex_) = 0;       // queue pairs
    std::shared_ptr<Looks> looks_ NDV_GUARDED_BY(lingering_mutex_);  // made with the first remnant
    bool takes_no_more_ NDV_GUARDED_BY(lingering_mutex_) = false;
    std::condition_variable lingered_;
};

}  // namespace ndv::soft

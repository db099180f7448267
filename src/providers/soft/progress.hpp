// SPDX-License-Identifier: Apache-2.0
// The soft adapter's progress thread: core's, which also reads sockets empty that are closing.
#pragma once

#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

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

    // Blocks until nothing lingers, then ends the thread.
    void stop();

private:
    friend class Lingerer;
    // By id, which rises: the oldest comes first.
    using Lingerers = std::map<std::uint64_t, std::shared_ptr<Lingerer>>;

    void let_go(Lingerer& lingerer);

    mutable base::Mutex lingering_mutex_;
    std::array<Lingerers, 2> lingering_ NDV_GUARDED_BY(lingering_mutex_);  // by Peer
    bool takes_no_more_ NDV_GUARDED_BY(lingering_mutex_) = false;
    std::condition_variable lingered_;
};

}  // namespace ndv::soft

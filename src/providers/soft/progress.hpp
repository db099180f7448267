// SPDX-License-Identifier: Apache-2.0
// The soft adapter's progress thread: core's, which also reads sockets empty that are closing.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <unordered_map>

#include "base/mutex.hpp"
#include "core/progress.hpp"
#include "providers/soft/link.hpp"

namespace ndv::soft {

using core::kLeaseTime;
using core::Lease;
using core::Member;
using core::now;
using core::Time;

class Progress final : public core::Progress {
public:
    ~Progress() override { stop(); }

    // Reads and drops what still comes, until the peer closes or 5 s pass; then closes.
    void linger(std::unique_ptr<Link> link);

    // Blocks until nothing lingers, then ends the thread.
    void stop();

private:
    friend class Lingerer;

    base::Mutex lingering_mutex_;
    std::unordered_map<std::uint64_t, std::shared_ptr<Member>> lingering_
        NDV_GUARDED_BY(lingering_mutex_);
    bool takes_no_more_ NDV_GUARDED_BY(lingering_mutex_) = false;
    std::condition_variable lingered_;
};

}  // namespace ndv::soft

// SPDX-License-Identifier: Apache-2.0
// What the connections of one adapter have moved, for its statistics.
#pragma once

#include <atomic>
#include <cstdint>
#include <unordered_set>

#include "base/mutex.hpp"
#include "iwarp/life.hpp"

namespace ndv::soft {

// Each connection has a part of its own, so that counting shares no cache line with others.
class StreamTotals {
public:
    // Written by the stepper. relaxed, all: numbers to look at, which order nothing.
    struct Part {
        std::atomic<std::uint64_t> fpdus_in{0};
        std::atomic<std::uint64_t> fpdus_out{0};
        std::atomic<std::uint64_t> bytes_in{0};
        std::atomic<std::uint64_t> bytes_out{0};
    };

    void join(const Part& part) {
        const base::Lock lock(mutex_);
        parts_.insert(&part);
    }
    // What it has counted stays.
    void leave(const Part& part) {
        const base::Lock lock(mutex_);
        if (parts_.erase(&part) != 0) add(part, gone_);
    }
    [[nodiscard]] iwarp::StreamCounters read() const {
        const base::Lock lock(mutex_);
        iwarp::StreamCounters all = gone_;
        for (const Part* const part : parts_) add(*part, all);
        return all;
    }

private:
    static void add(const Part& part, iwarp::StreamCounters& to) {
        to.fpdus_in += part.fpdus_in.load(std::memory_order_relaxed);
        to.fpdus_out += part.fpdus_out.load(std::memory_order_relaxed);
        to.bytes_in += part.bytes_in.load(std::memory_order_relaxed);
        to.bytes_out += part.bytes_out.load(std::memory_order_relaxed);
    }

    mutable base::Mutex mutex_;
    std::unordered_set<const Part*> parts_ NDV_GUARDED_BY(mutex_);
    iwarp::StreamCounters gone_ NDV_GUARDED_BY(mutex_);
};

}  // namespace ndv::soft

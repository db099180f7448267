// SPDX-License-Identifier: Apache-2.0
// Bandwidth and rate: as many requests as fit, `depth` of them in flight. A burst of Writes or
// Sends ends with a Send that the peer answers: Sends stay behind the Writes before them, so the
// answer says that every byte has arrived. A burst of Reads ends with the last Read.
//
// A Send needs a receive: the responder keeps 2 * depth posted and returns a credit, an empty
// Send, for every credit_batch() of them that it has posted anew.
#include <algorithm>

#include "bench/bench.hpp"

namespace ndv::bench {
namespace {

std::uint64_t credit_batch(const Plan& plan) { return std::max(1U, plan.depth / 2); }

}  // namespace

bool Session::initiate_throughput(Outcome& out) {
    if (plan_.warm_up > 0) {
        Outcome ignored;
        if (!initiate_burst(plan_.warm_up, Clock::time_point::max(), ignored)) return false;
    }
    const bool is_counted = plan_.iterations > 0;
    return initiate_burst(is_counted ? plan_.iterations : UINT64_MAX,
                          is_counted ? Clock::time_point::max() : Clock::now() + plan_.duration,
                          out);
}

bool Session::initiate_burst(std::uint64_t count, Clock::time_point until, Outcome& out) {
    const bool is_timed = until != Clock::time_point::max();
    const bool is_send = plan_.operation == core::OperationType::send;
    const std::uint64_t batch = credit_batch(plan_);
    const std::uint64_t markers_before = driver_.markers();
    std::uint64_t sent = 0;
    const Clock::time_point begin = Clock::now();
    while (sent < count && !(is_timed && Clock::now() >= until)) {
        std::uint64_t room =
            plan_.depth - std::min<std::uint64_t>(plan_.depth, driver_.in_flight());
        if (is_send) {
            const std::uint64_t credits = (driver_.markers() - markers_before) * batch;
            room = std::min(room, credits + 2 * plan_.depth - sent);
        }
        room = std::min(room, count - sent);
        for (std::uint64_t i = 0; i < room; ++i) {
            if (!driver_.post(plan_.operation, plan_.size)) return false;
        }
        sent += room;
        if (room > 0) driver_.transmit();
        if (!driver_.collect() || !replace_receives()) return false;
    }
    if (plan_.operation == core::OperationType::read) {
        while (driver_.in_flight() > 0) {
            if (!driver_.collect()) return false;
        }
    }
    const Clock::time_point reads_end = Clock::now();
    if (!driver_.send_marker()) return false;
    const std::uint64_t credits = is_send ? sent / batch : 0;
    if (!wait_for_markers(markers_before + credits + 1)) return false;
    const bool is_read = plan_.operation == core::OperationType::read;
    out.operations = sent;
    out.elapsed = (is_read ? reads_end : Clock::now()) - begin;
    return true;
}

bool Session::respond_throughput(Outcome& out) {
    if (plan_.warm_up > 0) {
        Outcome ignored;
        if (!respond_burst(ignored)) return false;
    }
    return respond_burst(out);
}

bool Session::respond_burst(Outcome& out) {
    const std::uint64_t batch = credit_batch(plan_);
    const std::uint64_t received_before = driver_.received();
    const std::uint64_t markers_before = driver_.markers();
    std::uint64_t credits = 0;
    const Clock::time_point begin = Clock::now();
    while (driver_.markers() == markers_before) {
        if (!driver_.collect() || !replace_receives()) return false;
        const std::uint64_t earned = (driver_.received() - received_before) / batch;
        if (credits == earned) continue;
        for (; credits < earned; ++credits) {
            if (!driver_.post(core::OperationType::send, 0)) return false;
        }
        driver_.transmit();
    }
    out.operations = driver_.received() - received_before;
    out.elapsed = Clock::now() - begin;
    return driver_.send_marker();
}

}  // namespace ndv::bench

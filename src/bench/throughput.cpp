// SPDX-License-Identifier: Apache-2.0
// Bandwidth and rate: as many requests as fit, `depth` of them in flight on each queue pair. A
// burst of Writes or Sends ends with a Send that the peer answers: Sends stay behind the Writes
// before them, so the answer says that every byte has arrived. A burst of Reads or atomics ends
// with the last of them. The next burst begins when every queue pair has its answer.
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
    const bool is_fetched = is_fetch(plan_.operation);
    begin_flows();
    std::uint64_t sent = 0;
    const Clock::duration cpu_begin = cpu_time();
    const Clock::time_point begin = Clock::now();
    while (sent < count && !(is_timed && Clock::now() >= until)) {
        for (std::size_t qp = 0; qp < flows_.size(); ++qp) {
            const std::uint64_t room = std::min(room_of(qp), count - sent);
            if (!driver_.post_many(qp, plan_.operation, plan_.size, room)) return false;
            flows_[qp].sent += room;
            sent += room;
            if (room > 0) driver_.transmit(qp);
        }
        if (!driver_.collect() || !replace_receives()) return false;
    }
    for (std::size_t qp = 0; is_fetched && qp < flows_.size(); ++qp) {
        while (driver_.in_flight(qp) > 0) {
            if (!driver_.collect()) return false;
        }
    }
    const Clock::time_point fetches_end = Clock::now();
    for (Flow& flow : flows_) flow.markers_due += is_send ? flow.sent / credit_batch(plan_) : 0;
    if (!send_markers() || !wait_for_markers()) return false;
    out.operations = sent;
    out.elapsed = (is_fetched ? fetches_end : Clock::now()) - begin;
    out.cpu = cpu_time() - cpu_begin;
    return true;
}

// How many requests its window takes, and for Sends the peer's receives.
std::uint64_t Session::room_of(std::size_t qp) const {
    const Flow& flow = flows_[qp];
    const std::uint64_t window =
        plan_.depth - std::min<std::uint64_t>(plan_.depth, driver_.in_flight(qp));
    if (plan_.operation != core::OperationType::send) return window;
    const std::uint64_t credits = driver_.markers(qp) - (flow.markers_due - 1);
    return std::min(window, credits * credit_batch(plan_) + 2 * plan_.depth - flow.sent);
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
    begin_flows();
    const Clock::duration cpu_begin = cpu_time();
    const Clock::time_point begin = Clock::now();
    while (!has_markers()) {
        if (!driver_.collect() || !replace_receives()) return false;
        for (std::size_t qp = 0; qp < flows_.size(); ++qp) {
            Flow& flow = flows_[qp];
            const std::uint64_t earned = (driver_.received(qp) - flow.received_before) / batch;
            if (flow.credits == earned) continue;
            for (; flow.credits < earned; ++flow.credits) {
                if (!driver_.post(qp, core::OperationType::send, 0)) return false;
            }
            driver_.transmit(qp);
        }
    }
    out.operations = 0;
    for (std::size_t qp = 0; qp < flows_.size(); ++qp) {
        out.operations += driver_.received(qp) - flows_[qp].received_before;
    }
    out.elapsed = Clock::now() - begin;
    out.cpu = cpu_time() - cpu_begin;
    return send_markers();
}

}  // namespace ndv::bench

// SPDX-License-Identifier: Apache-2.0
// What both measurements share: the checks, the receives, and the end.
#include <algorithm>
#include <string>
#include <utility>

#include "bench/bench.hpp"

namespace ndv::bench {
namespace {

// Receives for markers and ping-pong messages; more than can ever be on their way.
constexpr std::uint32_t kFewReceives = 16;

}  // namespace

core::QueuePairLimits limits_for(const Plan& plan) {
    core::QueuePairLimits limits;
    // The marker of a burst, credits and answers beside the requests of the plan.
    limits.initiator_queue_depth = std::max(plan.depth, 2 * plan.signal_every) + kFewReceives;
    limits.receive_queue_depth = 2 * plan.depth + kFewReceives;
    limits.max_receive_sge = limits.max_initiator_sge = 1;
    return limits;
}

Session::Session(Side side, const Plan& plan)
    : plan_(plan),
      driver_(std::move(side), plan.signal_every, plan.sleeps),
      flows_(driver_.qp_count()) {}

std::uint32_t Session::receive_count() const {
    const bool takes_stream = plan_.measure == Measure::throughput &&
                              plan_.operation == core::OperationType::send &&
                              plan_.role == Role::responder;
    // The window of initiate_burst(), and the marker.
    return takes_stream ? 2 * plan_.depth + 1 : kFewReceives;
}

std::uint32_t Session::receive_size() const {
    const bool takes_data = plan_.operation == core::OperationType::send &&
                            (plan_.measure == Measure::latency || plan_.role == Role::responder);
    return takes_data ? plan_.size : 0;
}

Expected<void> Session::prepare() {
    const Side& side = driver_.side();
    for (const auto& qp : side.qps) {
        const auto& cq = side.qps.front()->initiator_cq();
        if (qp->receive_cq() != cq || qp->initiator_cq() != cq) {
            return fail(Status::invalid_parameter,
                        "bench: the queue pairs have several completion queues",
                        "give one for all, and for both directions");
        }
    }
    if (plan_.size == 0 || plan_.depth == 0) {
        return fail(Status::invalid_parameter, "bench: size and depth must be at least 1");
    }
    if (plan_.operation == core::OperationType::fetch_add && plan_.size != core::kAtomicSize) {
        return fail(Status::invalid_parameter, "bench: fetch_add has a size of " +
                                                   std::to_string(core::kAtomicSize) + ", not " +
                                                   std::to_string(plan_.size));
    }
    const bool is_throughput = plan_.measure == Measure::throughput;
    if ((is_fetch(plan_.operation) && plan_.signal_every > 1) ||
        (is_throughput && plan_.signal_every > plan_.depth)) {
        return fail(
            Status::invalid_parameter,
            "bench: a read or atomic, and one request of each window, must complete visibly");
    }
    if (plan_.size > side.source.length || plan_.size > side.target.length) {
        return fail(Status::invalid_parameter, "bench: size " + std::to_string(plan_.size) +
                                                   " exceeds the registered memory of this end");
    }
    if (plan_.measure == Measure::latency && plan_.sleeps &&
        plan_.operation == core::OperationType::write) {
        return fail(Status::invalid_parameter_mix,
                    "bench: a Write raises no completion at its target, which cannot sleep for it",
                    "spin, or time sends");
    }
    if (plan_.measure == Measure::latency) {
        // Enough for ten seconds of round trips at 10 us; the run ends when it is full.
        constexpr std::uint64_t kMostSamples = 1'000'000;
        const std::uint64_t count =
            plan_.iterations == 0 ? kMostSamples : std::min(plan_.iterations, kMostSamples);
        samples_.assign(plan_.role == Role::initiator ? count : 0, Clock::duration{});
    }
    for (std::size_t qp = 0; qp < flows_.size(); ++qp) {
        for (std::uint32_t i = 0; i < receive_count(); ++i) {
            if (!driver_.post_receive(qp, receive_size())) return Unexpected{driver_.error()};
        }
    }
    return {};
}

Expected<Outcome> Session::run(const Interrupt& is_interrupted) {
    const bool is_target =
        plan_.role == Role::responder &&
        (is_fetch(plan_.operation) ||
         (plan_.operation == core::OperationType::write && plan_.measure == Measure::throughput));
    driver_.watch(&is_interrupted, is_target);
    Outcome out;
    bool is_done = false;
    if (plan_.measure == Measure::throughput) {
        is_done =
            plan_.role == Role::initiator ? initiate_throughput(out) : respond_throughput(out);
    } else {
        is_done = plan_.role == Role::initiator ? initiate_latency(out) : respond_latency(out);
    }
    driver_.watch(nullptr, false);
    if (!is_done) return Unexpected{driver_.error()};
    return out;
}

void Session::begin_flows() {
    for (std::size_t qp = 0; qp < flows_.size(); ++qp) {
        const std::uint64_t replaced = flows_[qp].replaced;
        flows_[qp] = {.received_before = driver_.received(qp),
                      .markers_due = driver_.markers(qp) + 1,
                      .replaced = replaced};
    }
}

bool Session::send_markers() {
    for (std::size_t qp = 0; qp < flows_.size(); ++qp) {
        if (!driver_.send_marker(qp)) return false;
    }
    return true;
}

bool Session::has_markers() const {
    for (std::size_t qp = 0; qp < flows_.size(); ++qp) {
        if (driver_.markers(qp) < flows_[qp].markers_due) return false;
    }
    return true;
}

bool Session::wait_for_markers() {
    while (!has_markers()) {
        if (!driver_.collect() || !replace_receives()) return false;
    }
    return true;
}

// Keeps as many receives posted as prepare() did.
bool Session::replace_receives() {
    for (std::size_t qp = 0; qp < flows_.size(); ++qp) {
        std::uint64_t& replaced = flows_[qp].replaced;
        for (; replaced < driver_.received(qp) + driver_.markers(qp); ++replaced) {
            if (!driver_.post_receive(qp, receive_size())) return false;
        }
    }
    return true;
}

}  // namespace ndv::bench

// SPDX-License-Identifier: Apache-2.0
// Latency: one request at a time. Sends and Writes go back and forth, so one way is half of a
// round trip; a Write is seen by its last byte, which counts 1 to 255. A Read is a round trip by
// itself, and so is an atomic. Several queue pairs take turns. An empty Send on each ends the run,
// and the responder answers them.
#include <algorithm>

#include "bench/bench.hpp"

namespace ndv::bench {
namespace {

// Never what the byte was before, nor the zero of fresh memory.
std::uint8_t tag(std::uint64_t index) { return static_cast<std::uint8_t>(1 + index % 255); }

}  // namespace

bool Session::initiate_latency(Outcome& out) {
    begin_flows();
    std::size_t qp = 0;
    for (std::uint64_t i = 0; i < plan_.warm_up; ++i, qp = after(qp)) {
        if (!round_trip(i, qp)) return false;
    }
    std::uint64_t count = 0;
    const bool is_timed = plan_.iterations == 0;
    const Clock::time_point begin = Clock::now();
    Clock::time_point before = begin;
    while (count < samples_.size() && !(is_timed && before - begin >= plan_.duration)) {
        if (!round_trip(plan_.warm_up + count, qp)) return false;
        qp = after(qp);
        const Clock::time_point after = Clock::now();
        samples_[count++] = after - before;
        before = after;
    }
    out.operations = count;
    out.elapsed = before - begin;
    if (count > 0) {
        const auto first = samples_.begin();
        std::sort(first, first + static_cast<std::ptrdiff_t>(count));
        out.median = samples_[count / 2];
        out.p99 = samples_[count - 1 - count / 100];
        out.p999 = samples_[count - 1 - count / 1000];
        out.minimum = samples_[0];
    }
    return send_markers() && wait_for_markers();
}

bool Session::round_trip(std::uint64_t index, std::size_t qp) {
    if (plan_.operation == core::OperationType::write) {
        driver_.end_source_with(tag(index), plan_.size);
    }
    const std::uint64_t received = driver_.received(qp);
    if (!driver_.post(qp, plan_.operation, plan_.size)) return false;
    driver_.transmit(qp);
    // While the request is under way: there are enough for the answer.
    if (!replace_receives()) return false;
    if (plan_.operation == core::OperationType::write) {
        // At least once, however soon the answer is there: what completes would fill the queue.
        do {
            if (!driver_.collect(false)) return false;
        } while (!driver_.target_comes_to(tag(index), plan_.size));
        driver_.note_progress();
        return true;
    }
    const bool is_fetched = is_fetch(plan_.operation);
    while (is_fetched ? driver_.in_flight(qp) > 0 : driver_.received(qp) == received) {
        if (!driver_.collect()) return false;
    }
    return true;
}

bool Session::respond_latency(Outcome& out) {
    std::uint64_t answered = 0;
    std::size_t qp = 0;
    begin_flows();
    const Clock::time_point begin = Clock::now();
    const bool is_write = plan_.operation == core::OperationType::write;
    while (!has_markers()) {
        const bool has_arrived = is_write ? driver_.target_comes_to(tag(answered), plan_.size)
                                          : driver_.received(qp) > flows_[qp].sent;
        if (!has_arrived) {
            if (!driver_.collect(!is_write)) return false;
            continue;
        }
        if (is_write) {
            driver_.note_progress();
            driver_.end_source_with(tag(answered), plan_.size);
        }
        if (!driver_.post(qp, plan_.operation, plan_.size)) return false;
        driver_.transmit(qp);
        ++answered;
        ++flows_[qp].sent;
        qp = after(qp);
        if (is_write && !driver_.collect(false)) return false;  // as in round_trip()
        if (!replace_receives()) return false;
    }
    out.operations = answered;
    out.elapsed = Clock::now() - begin;
    return send_markers();
}

}  // namespace ndv::bench

// SPDX-License-Identifier: Apache-2.0
// The timed loops behind `ndverbs bench`: both ends of a throughput or latency measurement over
// queue pairs that the caller has made. Uses the core objects only, so it times any provider.
// No allocation inside the timed part. Order: prepare(), connect, run() on both ends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/expected.hpp"
#include "bench/driver.hpp"
#include "core/queue_pair.hpp"
#include "core/types.hpp"

namespace ndv::bench {

enum class Measure : std::uint8_t { throughput, latency };
enum class Role : std::uint8_t { initiator, responder };

struct Plan {
    Role role = Role::initiator;
    Measure measure = Measure::throughput;
    core::OperationType operation = core::OperationType::write;  // or read, send, fetch_add
    std::uint32_t size = 8;                                      // bytes, at least 1
    std::uint32_t depth = 1;       // throughput: requests in flight on each queue pair
    std::uint64_t iterations = 0;  // 0: as many as fit into `duration`
    Clock::duration duration{};
    std::uint64_t warm_up = 0;       // operations before the clock starts
    std::uint32_t signal_every = 1;  // the requests between two such end by silent success
    bool sleeps = false;             // sleep in wait() for completions; else spin on poll()
};

struct Outcome {
    std::uint64_t operations = 0;
    Clock::duration elapsed{};
    Clock::duration cpu{};  // of this process, all threads
    // Latency only: of one round trip.
    Clock::duration median{};
    Clock::duration p99{};
    Clock::duration p999{};
    Clock::duration minimum{};
};

// What a plan needs of each queue pair of its side.
[[nodiscard]] core::QueuePairLimits limits_for(const Plan& plan);

class Session {
public:
    Session(Side side, const Plan& plan);

    // Checks the plan and posts the first receives; before the queue pair is connected, so that
    // neither end can be too early for the other.
    [[nodiscard]] Expected<void> prepare();

    // Blocks until the measurement is over. Fails when the connection does, when nothing moves for
    // kStallLimit, and when `is_interrupted` says so. The responder's outcome is what it saw.
    [[nodiscard]] Expected<Outcome> run(const Interrupt& is_interrupted);

private:
    [[nodiscard]] bool initiate_throughput(Outcome& out);
    [[nodiscard]] bool initiate_burst(std::uint64_t count, Clock::time_point until, Outcome& out);
    [[nodiscard]] bool respond_throughput(Outcome& out);
    [[nodiscard]] bool respond_burst(Outcome& out);
    [[nodiscard]] bool initiate_latency(Outcome& out);
    [[nodiscard]] bool round_trip(std::uint64_t index, std::size_t qp);
    [[nodiscard]] std::size_t after(std::size_t qp) const {
        return qp + 1 == flows_.size() ? 0 : qp + 1;
    }
    [[nodiscard]] bool respond_latency(Outcome& out);
    [[nodiscard]] bool send_markers();
    [[nodiscard]] bool has_markers() const;
    [[nodiscard]] bool wait_for_markers();
    [[nodiscard]] bool replace_receives();
    [[nodiscard]] std::uint32_t receive_count() const;
    [[nodiscard]] std::uint32_t receive_size() const;

    // Of one queue pair in the burst under way, and of its receives in all.
    struct Flow {
        std::uint64_t sent = 0;  // or answered
        std::uint64_t received_before = 0;
        std::uint64_t credits = 0;      // that the responder has returned
        std::uint64_t markers_due = 0;  // as many as these have come when the burst is over
        std::uint64_t replaced = 0;     // receives posted after prepare()
    };
    void begin_flows();
    [[nodiscard]] std::uint64_t room_of(std::size_t qp) const;

    const Plan plan_;
    Driver driver_;
    std::vector<Flow> flows_;
    std::vector<Clock::duration> samples_;
};

}  // namespace ndv::bench

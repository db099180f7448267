// SPDX-License-Identifier: Apache-2.0
// One end of a benchmark: posts, takes completions by spinning or sleeping, counts them for each
// queue pair, and remembers the first failure. Calls return false from then on; error() says what
// happened.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/expected.hpp"
#include "core/queue_pair.hpp"
#include "core/types.hpp"

namespace ndv::bench {

using Clock = std::chrono::steady_clock;
// Asked a few times a second; true ends a loop.
using Interrupt = std::function<bool()>;

// No completion and no byte for this long is a failure: the peer hangs.
inline constexpr std::chrono::seconds kStallLimit{10};

// One side of the connections, with the memory that they move. Made and connected by the caller;
// the queue pairs complete into one queue.
struct Side {
    std::vector<std::shared_ptr<core::QueuePair>> qps;
    core::Segment source;              // writes and sends leave from here
    core::Segment target;              // reads and receives land here, and the peer's writes
    std::uint64_t remote_address = 0;  // the peer's target
    std::uint32_t remote_token = 0;
};

// Whether the answer of the peer is what completes a request: it needs a completion of its own.
[[nodiscard]] constexpr bool is_fetch(core::OperationType type) {
    return type == core::OperationType::read || type == core::OperationType::fetch_add;
}

// What the process has used of all processors.
[[nodiscard]] Clock::duration cpu_time();

// Queue pairs are named by their numbers, from 0 on.
class Driver {
public:
    Driver(Side side, std::uint32_t signal_every, bool sleeps);
    Driver(const Driver&) = delete;
    Driver& operator=(const Driver&) = delete;

    // `may_stall`: the peer works without this end seeing anything of it, and notices a stall.
    void watch(const Interrupt* is_interrupted, bool may_stall);

    // Posts without transmitting. Silent but for every signal_every-th.
    [[nodiscard]] bool post(std::size_t qp, core::OperationType type, std::uint32_t size);
    // `count` of them, in a batch.
    [[nodiscard]] bool post_many(std::size_t qp, core::OperationType type, std::uint32_t size,
                                 std::uint64_t count);
    [[nodiscard]] bool post_receive(std::size_t qp, std::uint32_t size);
    void transmit(std::size_t qp);
    // A Send without data: the end of a burst, the answer to it, or a credit.
    [[nodiscard]] bool send_marker(std::size_t qp);

    // Takes what has completed. When there is nothing and the plan sleeps, sleeps a while, unless
    // the caller has something else to watch.
    [[nodiscard]] bool collect(bool may_sleep = true);

    [[nodiscard]] std::size_t qp_count() const { return counts_.size(); }
    // Initiator requests that were posted, and have not surely ended.
    [[nodiscard]] std::uint64_t in_flight(std::size_t qp) const {
        return counts_[qp].posted - counts_[qp].done;
    }
    // Receives with data, and receives without.
    [[nodiscard]] std::uint64_t received(std::size_t qp) const { return counts_[qp].received; }
    [[nodiscard]] std::uint64_t markers(std::size_t qp) const { return counts_[qp].markers; }

    // The last byte of the target changes when a Write has arrived; ping-pongs count in it.
    // Looks several times: a poll in between takes longer than all of them.
    [[nodiscard]] bool target_comes_to(std::uint8_t value, std::uint32_t size) const;
    void end_source_with(std::uint8_t value, std::uint32_t size);
    // Something moved that no completion reports.
    void note_progress() { ++moved_; }

    [[nodiscard]] const Side& side() const { return side_; }
    [[nodiscard]] const Error& error() const { return error_; }
    bool fail_with(Error error);

private:
    static constexpr std::size_t kBatch = 64;
    // A context is the number of the request and, in this many low bits, that of the queue pair.
    static constexpr unsigned kQpBits = 16;

    struct Counts {
        std::uint64_t posted = 0;
        std::uint32_t silent = 0;  // since the last one that was not
        std::uint64_t done = 0;
        std::uint64_t received = 0;
        std::uint64_t markers = 0;
    };

    void prepare(core::OperationType type, std::uint32_t size);
    [[nodiscard]] bool take(const core::Completion& completion);
    [[nodiscard]] bool is_alive();

    const Side side_;
    core::CompletionQueue& cq_;
    const std::uint32_t signal_every_;
    const bool sleeps_;
    const std::uint32_t inline_limit_;
    const Interrupt* is_interrupted_ = nullptr;
    bool may_stall_ = false;
    core::Segment segment_{};
    core::WorkRequest request_;  // what is posted again and again, with the segment
    std::uint32_t flags_ = 0;
    std::vector<Counts> counts_;
    std::uint64_t moved_ = 0;
    std::uint64_t looks_ = 0;
    std::uint64_t moved_before_ = 0;
    Clock::time_point moved_at_{};
    Clock::time_point asked_at_{};
    std::array<core::Completion, kBatch> completions_;
    bool has_failed_ = false;
    Error error_;
};

}  // namespace ndv::bench

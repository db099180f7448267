// SPDX-License-Identifier: Apache-2.0
// Posting, collecting and the signs of a dead peer.
#include "bench/driver.hpp"

#include <time.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <utility>

namespace ndv::bench {
namespace {

// Larger payload is not worth a second copy on any device (perftest's default is 236).
constexpr std::uint32_t kInlineLimit = 220;
// Between two looks at clock and signals.
constexpr std::uint64_t kLooks = 256;
constexpr std::chrono::milliseconds kSlice{50};

std::string failure_text(const core::Completion& completion) {
    const std::string why = core::detail_text(completion.detail);
    return "a request ended with " + std::string(status_name(completion.status)) + " (" +
           std::string(status_meaning(completion.status)) + ")" + (why.empty() ? "" : ": " + why);
}

}  // namespace

Clock::duration cpu_time() {
    timespec time{};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

Driver::Driver(Side side, std::uint32_t signal_every, bool sleeps)
    : side_(std::move(side)),
      cq_(*side_.qps.front()->initiator_cq()),
      signal_every_(std::max(1U, signal_every)),
      sleeps_(sleeps),
      inline_limit_(std::min(kInlineLimit, side_.qps.front()->limits().inline_size)),
      counts_(side_.qps.size()) {
    prepare(core::OperationType::send, 0);
}

void Driver::watch(const Interrupt* is_interrupted, bool may_stall) {
    is_interrupted_ = is_interrupted;
    may_stall_ = may_stall;
    moved_at_ = asked_at_ = Clock::now();
}

bool Driver::fail_with(Error error) {
    if (!has_failed_) error_ = std::move(error);
    has_failed_ = true;
    return false;
}

void Driver::prepare(core::OperationType type, std::uint32_t size) {
    segment_ = is_fetch(type) ? side_.target : side_.source;
    segment_.length = size;
    request_ = {};
    request_.type = type;
    if (size > 0) request_.segments = {&segment_, 1};
    if (type != core::OperationType::send) {
        request_.remote_address = side_.remote_address;
        request_.remote_token = side_.remote_token;
    }
    flags_ = 0;
    if (type == core::OperationType::fetch_add) {
        request_.operand = 1;
    } else if (type != core::OperationType::read && size <= inline_limit_) {
        flags_ = core::flag::kInline;
        segment_.token = 0;  // the caller's own memory, which no one has to look up
    }
}

bool Driver::post(std::size_t qp, core::OperationType type, std::uint32_t size) {
    if (type != request_.type || size != segment_.length) prepare(type, size);
    Counts& counts = counts_[qp];
    request_.context = counts.posted << kQpBits | qp;
    const bool is_told = counts.silent + 1 == signal_every_;
    request_.flags = is_told ? flags_ : flags_ | core::flag::kSilentSuccess;
    const Status status = side_.qps[qp]->post(request_);
    if (status != Status::success) [[unlikely]] {
        return fail_with(side_.qps[qp]->explain(status, request_));
    }
    ++counts.posted;
    counts.silent = is_told ? 0 : counts.silent + 1;
    return true;
}

bool Driver::post_many(std::size_t qp, core::OperationType type, std::uint32_t size,
                       std::uint64_t count) {
    const core::QueuePair::Batch batch(*side_.qps[qp]);
    for (; count > 0; --count) {
        if (!post(qp, type, size)) return false;
    }
    return true;
}

bool Driver::post_receive(std::size_t qp, std::uint32_t size) {
    core::Segment segment = side_.target;
    segment.length = size;
    core::ReceiveRequest request;
    if (size > 0) request.segments = {&segment, 1};
    request.context = qp;
    const Status status = side_.qps[qp]->post_receive(request);
    if (status != Status::success) [[unlikely]] {
        return fail_with(side_.qps[qp]->explain(status, request));
    }
    return true;
}

void Driver::transmit(std::size_t qp) {
    // What a full socket leaves behind is transmitted by the next collect().
    static_cast<void>(side_.qps[qp]->transmit(core::Budget::large));
}

bool Driver::send_marker(std::size_t qp) {
    if (!post(qp, core::OperationType::send, 0)) return false;
    transmit(qp);
    return true;
}

bool Driver::collect(bool may_sleep) {
    bool needs_large = false;
    std::size_t count =
        cq_.poll(completions_.data(), completions_.size(), core::Budget::large, needs_large);
    bool is_over_slice = false;
    if (count == 0 && sleeps_ && may_sleep && !needs_large) {
        is_over_slice = !cq_.wait(kSlice);
        count =
            cq_.poll(completions_.data(), completions_.size(), core::Budget::large, needs_large);
    }
    for (std::size_t i = 0; i < count; ++i) {
        if (!take(completions_[i])) [[unlikely]] {
            // The rest still holds references.
            while (++i < count) static_cast<void>(take(completions_[i]));
            return false;
        }
    }
    moved_ += count;
    if (++looks_ % kLooks == 0 || is_over_slice) return is_alive();
    return true;
}

bool Driver::take(const core::Completion& completion) {
    completion.requests->end();
    if (is_failure(completion.status)) [[unlikely]] {
        return fail_with({completion.status, failure_text(completion), "", 0});
    }
    Counts& counts = counts_[completion.context & ((1U << kQpBits) - 1)];
    if (completion.type != core::OperationType::receive) {
        counts.done = (completion.context >> kQpBits) + 1;
    } else if (completion.bytes_transferred > 0) {
        ++counts.received;
    } else {
        ++counts.markers;
    }
    return !has_failed_;
}

bool Driver::is_alive() {
    if (has_failed_) return false;
    const auto is_over = [](const auto& qp) { return qp->state() == core::QueuePairState::error; };
    if (std::any_of(side_.qps.begin(), side_.qps.end(), is_over) && cq_.is_empty()) {
        return fail_with({Status::connection_disconnected, "the peer ended the connection", "", 0});
    }
    if (is_failure(cq_.status())) {
        return fail_with({cq_.status(), "the completion queue overran", "", 0});
    }
    const Clock::time_point at = Clock::now();
    if (moved_ != moved_before_) {
        moved_before_ = moved_;
        moved_at_ = at;
    } else if (!may_stall_ && at - moved_at_ > kStallLimit) {
        return fail_with({Status::io_timeout,
                          "nothing moved for " + std::to_string(kStallLimit.count()) + " s", "",
                          0});
    }
    if (is_interrupted_ != nullptr && at - asked_at_ > kSlice) {
        asked_at_ = at;
        if ((*is_interrupted_)()) {
            return fail_with({Status::cancelled, "the benchmark was interrupted", "", 0});
        }
    }
    return true;
}

bool Driver::target_comes_to(std::uint8_t value, std::uint32_t size) const {
    constexpr int kTries = 64;
    auto* const last =
        reinterpret_cast<std::uint8_t*>(side_.target.address + std::uint64_t{size} - 1);
    const std::atomic_ref<std::uint8_t> byte(*last);
    for (int i = 0; i < kTries; ++i) {
        // acquire: pairs with the stepper's fence that placed the Write; the bytes before it are
        // there.
        if (byte.load(std::memory_order_acquire) == value) return true;
    }
    return false;
}

void Driver::end_source_with(std::uint8_t value, std::uint32_t size) {
    *reinterpret_cast<std::uint8_t*>(side_.source.address + std::uint64_t{size} - 1) = value;
}

}  // namespace ndv::bench

// SPDX-License-Identifier: Apache-2.0
// What waits for an answer, in either direction: own reads and atomics, and the peer's.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include "iwarp/ddp.hpp"

namespace ndv::iwarp {

// Own reads and atomics that wait for their response, oldest first: send queue positions.
class OpenReads {
public:
    explicit OpenReads(std::uint16_t ord)
        : positions_(std::bit_ceil(std::max<std::uint32_t>(ord, 1))) {}

    void push(std::uint32_t position) { at(tail_++) = position; }
    std::uint32_t pop() { return at(head_++); }
    [[nodiscard]] std::uint32_t front() const { return (*this)[0]; }
    [[nodiscard]] std::uint32_t operator[](std::uint32_t index) const {
        return positions_[(head_ + index) % positions_.size()];
    }
    [[nodiscard]] std::uint32_t size() const { return tail_ - head_; }
    [[nodiscard]] bool is_empty() const { return head_ == tail_; }
    [[nodiscard]] bool is_full() const { return size() == positions_.size(); }
    // All that the peer has to answer.
    [[nodiscard]] std::uint32_t count() const { return size() + (has_opening ? 1 : 0); }

    bool has_opening = false;  // the Read that opens the stream is out; it has no position

private:
    [[nodiscard]] std::uint32_t& at(std::uint32_t index) {
        return positions_[index % positions_.size()];
    }
    std::vector<std::uint32_t> positions_;
    std::uint32_t head_ = 0;
    std::uint32_t tail_ = 0;
};

// A peer's Read or Atomic Request that waits for its response or is being answered.
struct Job {
    std::uint32_t msn = 0;
    bool is_atomic = false;
    std::uint32_t built = 0;   // read: bytes put into frames
    ReadRequestBody body;      // read; else its size is 0
    AtomicRequestBody atomic;  // read: not set
};

// In the order of the requests, which is that of the answers.
class Jobs {
public:
    // siw rounds its queues up to a power of two and may send that many reads.
    explicit Jobs(std::uint16_t ird)
        : jobs_(ird == 0 ? 0 : std::bit_ceil(static_cast<std::uint32_t>(ird))) {}

    [[nodiscard]] bool is_full() const { return tail_ - head_ >= jobs_.size(); }
    // Filled before push().
    [[nodiscard]] Job& incoming() { return (*this)[tail_]; }
    void push() { ++tail_; }
    [[nodiscard]] bool has_next() const { return next_ != tail_; }
    [[nodiscard]] Job& next() { return (*this)[next_]; }
    [[nodiscard]] std::uint32_t next_position() const { return next_; }
    [[nodiscard]] std::uint32_t end_position() const { return tail_; }
    [[nodiscard]] Job& operator[](std::uint32_t position) { return jobs_[position % jobs_.size()]; }
    void note_built() { ++next_; }
    void note_sent() { ++head_; }

private:
    std::vector<Job> jobs_;
    std::uint32_t head_ = 0;  // oldest not fully sent
    std::uint32_t next_ = 0;  // next to build
    std::uint32_t tail_ = 0;
};

}  // namespace ndv::iwarp

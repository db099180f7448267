// SPDX-License-Identifier: Apache-2.0
// Where the frames of one direction of a stream end: a start-up frame, then FPDUs. For what looks
// at bytes on their way; the engine has its own eyes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace ndv::soft {

class FrameSizes {
public:
    // Of the frame that begins with these bytes; 0 while it is not known. What is no iWARP is one
    // frame, whatever comes.
    [[nodiscard]] std::size_t size_of(std::span<const std::byte> bytes);
    // That frame is over.
    void next() {
        if (phase_ == Phase::start_up) phase_ = Phase::fpdus;
    }
    [[nodiscard]] bool is_fpdu() const { return phase_ == Phase::fpdus; }
    // The start-up frame asked for a sum.
    [[nodiscard]] bool has_crc() const { return has_crc_; }

private:
    enum class Phase : std::uint8_t { start_up, fpdus, foreign };
    Phase phase_ = Phase::start_up;
    bool has_crc_ = false;
};

}  // namespace ndv::soft

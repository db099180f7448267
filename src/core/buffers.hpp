// SPDX-License-Identifier: Apache-2.0
// Local memory of a request on its way from the caller to the provider, and the sentences about
// receives that both kinds of receive queue share. Used by core only.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "base/expected.hpp"
#include "core/memory.hpp"
#include "core/types.hpp"

namespace ndv::core {

inline constexpr std::size_t kMaxSegments = 64;  // above any adapter's max_*_request_sge

[[nodiscard]] inline std::uint64_t total_length(std::span<const Segment> segments) {
    std::uint64_t length = 0;
    for (const Segment& segment : segments) length += segment.length;
    return length;
}

// References that a request holds until the provider has taken them over.
class Buffers {
public:
    Buffers() = default;
    Buffers(const Buffers&) = delete;
    Buffers& operator=(const Buffers&) = delete;
    ~Buffers() {
        for (std::size_t i = 0; i < count_; ++i) {
            if (buffer(i).hold != nullptr) buffer(i).hold->release();
        }
    }

    [[nodiscard]] Status acquire(ProtectionDomain& pd, std::span<const Segment> segments,
                                 std::uint32_t rights) {
        for (const Segment& segment : segments) {
            std::construct_at(&buffer(count_));
            const Status status = pd.acquire_local(segment, rights, buffer(count_));
            if (status != Status::success) return status;
            ++count_;
        }
        return Status::success;
    }
    [[nodiscard]] std::span<const LocalBuffer> get() const {
        return {reinterpret_cast<const LocalBuffer*>(storage_.data()), count_};
    }
    void handed_over() { count_ = 0; }

private:
    LocalBuffer& buffer(std::size_t i) {
        return *reinterpret_cast<LocalBuffer*>(&storage_[i * sizeof(LocalBuffer)]);
    }
    // Left uninitialised: a request rarely has more than a few of them.
    alignas(LocalBuffer) std::array<std::byte, kMaxSegments * sizeof(LocalBuffer)> storage_;
    std::size_t count_ = 0;
};

// `remedy`: how to get more segments.
[[nodiscard]] Error explain_receive(Status status, const ReceiveRequest& request,
                                    const ProtectionDomain& pd, std::uint32_t max_sge,
                                    const char* remedy);

}  // namespace ndv::core

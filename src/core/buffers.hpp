// SPDX-License-Identifier: Apache-2.0
// Local memory of a request on its way from the caller to the provider, and the sentences that
// several kinds of request share. Used by core only.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/expected.hpp"
#include "core/memory.hpp"
#include "core/types.hpp"

namespace ndv::core {

inline constexpr std::size_t kMaxSegments = 64;  // above any adapter's max_*_request_sge

[[nodiscard]] inline std::uint64_t total_length(std::span<const Segment> segments) {
    std::uint64_t length = 0;
    for (const Segment& segment : segments) length = add_length(length, segment.length);
    return length;
}

// References that a request holds until the provider has taken them over, or has copied what is
// INLINE.
class Buffers {
public:
    Buffers() = default;
    Buffers(const Buffers&) = delete;
    Buffers& operator=(const Buffers&) = delete;
    ~Buffers() {
        for (std::size_t i = 0; i < count_; ++i) {
            if (first_[i].hold != nullptr) first_[i].hold->release();
        }
    }

    // INLINE: what has no token is the caller's own memory. NDK does not limit the segments.
    template <bool kIsInline>
    [[nodiscard]] Status acquire(ProtectionDomain& pd, std::span<const Segment> segments,
                                 std::uint32_t rights) {
        if (kIsInline && segments.size() > kMaxSegments) {
            many_.resize(segments.size());
            first_ = many_.data();
        }
        for (const Segment& segment : segments) {
            if (kIsInline && segment.token == 0) {
                LocalBuffer& own = *std::construct_at(first_ + count_++);
                own.data = reinterpret_cast<std::byte*>(segment.address);
                own.length = static_cast<std::uint32_t>(segment.length);
            } else if (const Status status = acquire_one(pd, segment, rights);
                       status != Status::success) {
                return status;
            }
        }
        return Status::success;
    }
    [[nodiscard]] std::span<const LocalBuffer> get() const { return {first_, count_}; }
    void handed_over() { count_ = 0; }

private:
    [[nodiscard]] Status acquire_one(ProtectionDomain& pd, const Segment& segment,
                                     std::uint32_t rights) {
        LocalBuffer& made = *std::construct_at(first_ + count_);
        const Status status = pd.acquire_local(segment, rights, made);
        if (status != Status::success) return status;
        ++count_;
        // Its region was just given back to the caller.
        return made.hold->is_sealed() ? Status::access_violation : Status::success;
    }

    // Left uninitialised: a request rarely has more than a few of them.
    alignas(LocalBuffer) std::array<std::byte, kMaxSegments * sizeof(LocalBuffer)> storage_;
    LocalBuffer* first_ = reinterpret_cast<LocalBuffer*>(storage_.data());
    std::size_t count_ = 0;
    std::vector<LocalBuffer> many_;  // for more than kMaxSegments
};

class QueuePair;
// What a status says of any request of the initiator queue; `name`: the call that posts it.
[[nodiscard]] Error common_error(Status status, const std::string& name, const QueuePair& qp);

// `remedy`: how to get more segments.
[[nodiscard]] Error explain_receive(Status status, const ReceiveRequest& request,
                                    const ProtectionDomain& pd, std::uint32_t max_sge,
                                    const char* remedy);

}  // namespace ndv::core

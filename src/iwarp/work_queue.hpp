// SPDX-License-Identifier: Apache-2.0
// The queues between the thread that posts and the one that steps: requests in posting order with
// their segments and inline bytes, allocated once. The poster fills a slot and publishes it; from
// then on it is the engine's until it retires.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/pages.hpp"
#include "base/ring.hpp"
#include "base/status.hpp"

namespace ndv::iwarp {

// Local memory of a request. `owner` means nothing to the engine: it is handed back on retirement.
struct PostedSegment {
    std::byte* data = nullptr;
    std::uint32_t length = 0;
    void* owner = nullptr;
    const base::PageList* pages = nullptr;  // not null: the memory is scattered, `data` is not set
    std::uint64_t offset = 0;               // in `pages`
};

// What the end of a request waits for: that its bytes are out, a Read's data, the word of an
// atomic, or its turn alone: it changes memory then, and puts nothing on the wire.
enum class Answer : std::uint8_t { none, data, word, local };

// X(name, build, answer, operation, has_immediate). build: what makes its frames,
// Sender::build_<build>(). operation, has_immediate: the call that posts it, for a provider.
#define NDV_REQUEST_LIST(X)                                    \
    X(send, send, none, send, false)                           \
    X(write, write, none, write, false)                        \
    X(write_immediate, write_immediate, none, write, true)     \
    X(read, read, data, read, false)                           \
    X(fetch_add, atomic_request, word, fetch_add, false)       \
    X(compare_swap, atomic_request, word, compare_swap, false) \
    X(bind, nothing, local, bind, false)                       \
    X(fast_register, nothing, local, fast_register, false)     \
    X(invalidate, nothing, local, invalidate, false)

enum class RequestKind : std::uint8_t {
#define NDV_X(name, ...) name,
    NDV_REQUEST_LIST(NDV_X)
#undef NDV_X
};

[[nodiscard]] constexpr Answer answer_of(RequestKind kind) {
    switch (kind) {
#define NDV_X(name, build, answer, ...) \
    case RequestKind::name:             \
        return Answer::answer;
        NDV_REQUEST_LIST(NDV_X)
#undef NDV_X
    }
    return Answer::none;
}
[[nodiscard]] constexpr bool is_local(RequestKind kind) { return answer_of(kind) == Answer::local; }
[[nodiscard]] constexpr bool is_atomic(RequestKind kind) { return answer_of(kind) == Answer::word; }
// Is done when the peer has answered, and takes one of its places for that (IRD, ORD).
[[nodiscard]] constexpr bool is_answered(RequestKind kind) {
    return answer_of(kind) == Answer::data || is_atomic(kind);
}

// One slot of the send queue (NDK: initiator queue).
struct SendRequest {
    enum class Progress : std::uint8_t { posted, transmitted, done };

    // Filled by the poster.
    std::uint64_t context = 0;
    std::uint64_t remote_address = 0;
    std::uint32_t remote_token = 0;  // send: the STag to invalidate
    // invalidate, and a read that invalidates: a token of this side. bind, fast_register: theirs.
    std::uint32_t local_token = 0;
    // write_immediate: its value. Atomics: what is added, or stored.
    std::uint64_t operand = 0;
    union {
        void* operation = nullptr;  // bind and fast_register: what RemoteMemory::execute() needs
        std::uint64_t compare;      // compare_swap: what must be there
    };
    std::uint32_t length = 0;
    std::uint16_t segment_count = 0;
    RequestKind kind = RequestKind::send;
    bool invalidates = false;  // send: at the peer; read: its first segment's token
    bool solicits = false;
    bool is_fenced = false;
    bool is_silent = false;
    bool context_is_object = false;

    // The engine's.
    Progress progress = Progress::posted;
    std::uint32_t sink_stag = 0;  // atomics: the request identifier
    std::uint32_t received = 0;   // reads: bytes of the response placed
};
static_assert(sizeof(SendRequest) == 64);  // one cache line

struct ReceiveRequest {
    // Filled by the poster.
    std::uint64_t context = 0;
    std::uint32_t length = 0;
    std::uint16_t segment_count = 0;
    bool context_is_object = false;

    // The engine's.
    bool is_solicited = false;
    bool has_invalidated = false;
    bool has_immediate = false;
    std::uint32_t invalidated_stag = 0;
    std::uint32_t immediate = 0;
    std::uint32_t received = 0;  // bytes; with an immediate, those of the Write before it
    Status status = Status::success;
};

template <typename Request>
class WorkQueue {
public:
    WorkQueue(std::uint32_t depth, std::uint32_t max_segments, std::uint32_t inline_size)
        : cursor(depth),
          // Inline data is one segment, also where the queue takes none.
          max_segments_(max_segments == 0 ? 1 : max_segments),
          inline_size_(inline_size),
          requests_(std::make_unique<Request[]>(capacity())),
          segments_(std::make_unique<PostedSegment[]>(capacity() * max_segments_)),
          inline_(std::make_unique<std::byte[]>(capacity() * inline_size)) {}

    [[nodiscard]] Request& operator[](std::uint32_t position) {
        return requests_[position & cursor.mask()];
    }
    [[nodiscard]] std::span<PostedSegment> segment_storage(std::uint32_t position) {
        return {
            segments_.get() + static_cast<std::size_t>(position & cursor.mask()) * max_segments_,
            max_segments_};
    }
    [[nodiscard]] std::span<PostedSegment> segments(std::uint32_t position) {
        return segment_storage(position).first((*this)[position].segment_count);
    }
    [[nodiscard]] std::span<std::byte> inline_storage(std::uint32_t position) {
        return {inline_.get() + static_cast<std::size_t>(position & cursor.mask()) * inline_size_,
                inline_size_};
    }

    base::SpscCursor cursor;

private:
    [[nodiscard]] std::size_t capacity() const {
        return static_cast<std::size_t>(cursor.mask()) + 1;
    }

    const std::uint32_t max_segments_;
    const std::uint32_t inline_size_;
    std::unique_ptr<Request[]> requests_;
    std::unique_ptr<PostedSegment[]> segments_;
    std::unique_ptr<std::byte[]> inline_;
};

using SendQueue = WorkQueue<SendRequest>;
using ReceiveQueue = WorkQueue<ReceiveRequest>;

// A message that holds a receive and gets fewer bytes at a time stands still: one byte now and then
// is cheap.
inline constexpr std::uint32_t kNoticeable = 4096;

// Receives that wait elsewhere, for several connections: NDK's shared receive queue. The stepper
// moves them into the connection's own queue one by one, as its producer.
class ReceiveSupply {
public:
    ReceiveSupply() = default;
    ReceiveSupply(const ReceiveSupply&) = delete;
    ReceiveSupply& operator=(const ReceiveSupply&) = delete;

    // Moves one; false: there is none, or no room for it.
    [[nodiscard]] virtual bool refill() = 0;
    // Whether refill() would have moved one just now.
    [[nodiscard]] virtual bool can_refill() const = 0;

protected:
    ~ReceiveSupply() = default;
};

// The part [offset, offset + length) of a list of segments, as at most `max` pieces. Returns the
// pieces; fewer bytes than asked when `max` is too small.
inline std::size_t slice_segments(std::span<const PostedSegment> segments, std::size_t offset,
                                  std::size_t length, iovec* out, std::size_t max) {
    std::size_t count = 0;
    for (const PostedSegment& segment : segments) {
        if (length == 0 || count == max) break;
        if (offset >= segment.length) {
            offset -= segment.length;
            continue;
        }
        const std::size_t size = std::min<std::size_t>(segment.length - offset, length);
        if (segment.pages != nullptr) [[unlikely]] {
            const std::size_t pieces =
                segment.pages->pieces(segment.offset + offset, size, out + count, max - count);
            std::size_t covered = 0;
            for (std::size_t i = 0; i < pieces; ++i) covered += out[count + i].iov_len;
            count += pieces;
            if (covered < size) break;
        } else {
            out[count++] = {segment.data + offset, size};
        }
        length -= size;
        offset = 0;
    }
    return count;
}

}  // namespace ndv::iwarp

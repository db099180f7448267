// SPDX-License-Identifier: Apache-2.0
// What a provider gives a protocol engine, but no link and no clock: an arena as memory, a table of
// regions, both work queues; and the engine of a stream over TCP. Shared by the _testing extension
// and the fuzz targets. Time is what the caller says.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "cursor_access.hpp"
#include "iwarp/connection.hpp"

namespace ndv::testing {

// A table of regions over the arena, with the checks of RFC 5040 section 7.2 written plainly.
class FakeMemory final : public iwarp::RemoteMemory {
public:
    static constexpr std::uint32_t kOwnPd = 1;

    struct Region {
        std::uint32_t stag = 0;
        std::uint64_t to = 0;  // of its first byte
        std::byte* data = nullptr;
        std::uint64_t length = 0;
        bool remote_read = false;
        bool remote_write = false;
        bool is_revocable = false;  // Send with Invalidate may end it
        std::uint32_t pd = kOwnPd;
        // Not 0: the region is made of pages of this size, a power of two, the last one first:
        // page i of n lies at data + (n - 1 - i) * page.
        std::uint32_t page = 0;
        bool remote_atomic = false;
    };

    void add(const Region& region) { regions_.push_back(region); }
    bool remove(std::uint32_t stag) {
        return std::erase_if(regions_, [&](const Region& r) { return r.stag == stag; }) > 0;
    }
    [[nodiscard]] bool has(std::uint32_t stag) const { return find(stag) != nullptr; }
    [[nodiscard]] int pins() const { return pins_; }

    [[nodiscard]] iwarp::AccessResult pin(std::uint32_t stag, std::uint64_t to,
                                          std::uint32_t length, iwarp::RemoteRight right,
                                          iwarp::Pin& out) override {
        using iwarp::AccessResult;
        const Region* region = find(stag);
        if (region == nullptr) return AccessResult::invalid_stag;
        if (region->pd != kOwnPd) return AccessResult::not_associated;
        const bool is_granted = right == iwarp::RemoteRight::read    ? region->remote_read
                                : right == iwarp::RemoteRight::write ? region->remote_write
                                                                     : region->remote_atomic;
        if (!is_granted) return AccessResult::denied;
        if (length > 0 && to + (length - 1) < to) return AccessResult::wrap;
        if (to < region->to || to - region->to > region->length ||
            length > region->length - (to - region->to)) {
            return AccessResult::bounds;
        }
        ++pins_;
        // Any address that stays the same between pin and unpin.
        out = {region->data + (to - region->to), region->length - (to - region->to),
               to - region->to, this};
        if (region->page != 0) out.contiguous = 0;
        if (region->page != 0) scattered_ = *region;
        return AccessResult::granted;
    }
    [[nodiscard]] std::size_t scatter(const iwarp::Pin& pin, std::uint64_t offset,
                                      std::size_t length, iovec* out, std::size_t max) override {
        const std::uint64_t count = scattered_.length / scattered_.page;
        std::size_t pieces = 0;
        for (std::uint64_t at = pin.offset + offset; length > 0 && pieces < max; ++pieces) {
            const std::uint64_t in_page = at % scattered_.page;
            const std::size_t size = std::min<std::size_t>(scattered_.page - in_page, length);
            const std::uint64_t page = count - 1 - at / scattered_.page;
            out[pieces] = {scattered_.data + page * scattered_.page + in_page, size};
            at += size;
            length -= size;
        }
        return pieces;
    }
    // The request names a region by its STag: invalidate ends it; the others let it be reached.
    [[nodiscard]] Status execute(const iwarp::SendRequest& request) override {
        if (request.kind == iwarp::RequestKind::invalidate) {
            if (pins_ != 0) std::abort();  // the engine's promise
            return remove(request.local_token) ? Status::success : Status::invalid_device_request;
        }
        const auto waiting = std::find_if(waiting_.begin(), waiting_.end(), [&](const Region& r) {
            return r.stag == request.local_token;
        });
        if (waiting == waiting_.end() || has(request.local_token)) {
            return Status::invalid_device_request;
        }
        regions_.push_back(*waiting);
        return Status::success;
    }
    [[nodiscard]] Status invalidate_sink(std::uint32_t stag) override {
        if (pins_ != 0) std::abort();
        return remove(stag) ? Status::success : Status::invalid_device_request;
    }
    // For execute(): what a fast_register or bind of this STag makes.
    void prepare(const Region& region) { waiting_.push_back(region); }
    void unpin(const iwarp::Pin& pin) override {
        if (pin.entry == this) --pins_;
    }
    [[nodiscard]] iwarp::AccessResult invalidate(std::uint32_t stag) override {
        const Region* region = find(stag);
        if (region == nullptr) return iwarp::AccessResult::invalid_stag;
        if (region->pd != kOwnPd) return iwarp::AccessResult::not_associated;
        if (!region->is_revocable) return iwarp::AccessResult::denied;
        if (pins_ != 0) std::abort();
        remove(stag);
        return iwarp::AccessResult::granted;
    }

private:
    [[nodiscard]] const Region* find(std::uint32_t stag) const {
        for (const Region& region : regions_) {
            if (region.stag == stag) return &region;
        }
        return nullptr;
    }

    std::vector<Region> regions_;
    std::vector<Region> waiting_;
    Region scattered_;  // one at a time is enough
    int pins_ = 0;
};

struct Range {
    std::size_t offset = 0;  // in the arena
    std::uint32_t length = 0;
};

struct EngineLimits {
    std::uint32_t send_depth = 64;
    std::uint32_t receive_depth = 64;
    std::uint32_t max_segments = 16;
    std::size_t arena_size = 64 * 1024;
    std::uint32_t start_position = 0;  // of both queues
};

class Surroundings {
public:
    explicit Surroundings(const EngineLimits& limits)
        : arena_(limits.arena_size),
          send_queue_(limits.send_depth, limits.max_segments, 0),
          receive_queue_(limits.receive_depth, limits.max_segments, 0) {
        set_position(send_queue_.cursor, limits.start_position);
        set_position(receive_queue_.cursor, limits.start_position);
    }

    [[nodiscard]] std::span<std::byte> arena() { return arena_; }
    [[nodiscard]] FakeMemory& memory() { return memory_; }
    [[nodiscard]] iwarp::SendQueue& send_queue() { return send_queue_; }
    [[nodiscard]] iwarp::ReceiveQueue& receive_queue() { return receive_queue_; }

    // False: the queue is full. Ranges lie in the arena.
    bool post(iwarp::SendRequest request, std::span<const Range> ranges) {
        if (send_queue_.cursor.is_full()) return false;
        const std::uint32_t position = send_queue_.cursor.tail_position();
        request.segment_count = static_cast<std::uint16_t>(ranges.size());
        request.length = fill(send_queue_.segment_storage(position), ranges);
        send_queue_[position] = request;
        send_queue_.cursor.publish();
        return true;
    }
    bool post_receive(std::uint64_t context, std::span<const Range> ranges) {
        if (receive_queue_.cursor.is_full()) return false;
        const std::uint32_t position = receive_queue_.cursor.tail_position();
        iwarp::ReceiveRequest request;
        request.context = context;
        request.segment_count = static_cast<std::uint16_t>(ranges.size());
        request.length = fill(receive_queue_.segment_storage(position), ranges);
        receive_queue_[position] = request;
        receive_queue_.cursor.publish();
        return true;
    }

private:
    std::uint32_t fill(std::span<iwarp::PostedSegment> segments, std::span<const Range> ranges) {
        std::uint32_t length = 0;
        for (std::size_t i = 0; i < ranges.size(); ++i) {
            segments[i] = {arena_.data() + ranges[i].offset, ranges[i].length, nullptr, nullptr, 0};
            length += ranges[i].length;
        }
        return length;
    }

    std::vector<std::byte> arena_;
    FakeMemory memory_;
    iwarp::SendQueue send_queue_;
    iwarp::ReceiveQueue receive_queue_;
};

class Engine : public Surroundings {
public:
    Engine(const iwarp::ConnectionConfig& config, const EngineLimits& limits)
        : Surroundings(limits), connection_(config, send_queue(), receive_queue(), memory()) {}

    [[nodiscard]] iwarp::Connection& connection() { return connection_; }

    // Everything that the engine wants to write, up to `limit` bytes; the link takes them all.
    // `pieces` bounds the gather list. `meddle` runs between a gather list and its bytes.
    template <typename Meddle = void (*)()>
    [[nodiscard]] std::vector<std::byte> transmit(
        std::size_t limit, std::size_t pieces, std::size_t budget, Meddle meddle = [] {}) {
        std::vector<std::byte> out;
        std::vector<iovec> list(pieces);
        while (out.size() < limit) {
            const std::size_t count = connection_.poll_transmit(list.data(), pieces, budget);
            if (count == 0) break;
            meddle();
            std::size_t taken = 0;
            for (std::size_t i = 0; i < count; ++i) {
                const std::size_t size = std::min(list[i].iov_len, limit - out.size());
                const auto* from = static_cast<const std::byte*>(list[i].iov_base);
                out.insert(out.end(), from, from + size);
                taken += size;
            }
            if (taken == 0) break;
            connection_.handle_sent(taken);
        }
        return out;
    }

    // Hands `data` over as the engine asks for it, at most `read_size` bytes at a time. Returns
    // the bytes that it took.
    [[nodiscard]] std::size_t receive(std::span<const std::byte> data, std::size_t read_size,
                                      std::size_t pieces, std::size_t budget, iwarp::Time now) {
        std::vector<iovec> list(pieces);
        std::size_t done = 0;
        while (done < data.size()) {
            const std::size_t count = connection_.poll_receive(list.data(), pieces, budget);
            std::size_t left = std::min(read_size, data.size() - done);
            std::size_t read = 0;
            for (std::size_t i = 0; i < count && left > 0; ++i) {
                const std::size_t size = std::min(list[i].iov_len, left);
                std::memcpy(list[i].iov_base, data.data() + done + read, size);
                read += size;
                left -= size;
            }
            if (read == 0) break;
            connection_.handle_received(read, now);
            done += read;
        }
        return done;
    }

private:
    iwarp::Connection connection_;
};

}  // namespace ndv::testing

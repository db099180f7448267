// SPDX-License-Identifier: Apache-2.0
// What was posted to a hardware queue and has not ended yet: the one record from which every
// request gets its one completion, whatever the device does. Position n of the queue is the wr_id
// of its n-th request.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/ring.hpp"
#include "core/memory.hpp"
#include "core/types.hpp"
#include "providers/verbs/abi/verbs.hpp"
#include "providers/verbs/mapping.hpp"

namespace ndv::verbs {

struct Shadow {
    std::uint64_t context = 0;
    core::OperationType type = core::OperationType::receive;
    bool context_is_object = false;
    bool is_silent = false;
    std::uint16_t segment_count = 0;  // whose buffers are held
    std::uint16_t piece_count = 0;    // what the device gets: those that are not empty
    // A request in two parts is reported once: by the first when that fails, else by the second.
    bool has_second = false;
    bool is_told = false;
    // It has succeeded, and waits for those before it: completions keep the order of posting, and
    // nothing behind a failure counts as a success.
    bool is_done = false;
    bool is_local = false;  // the device does it alone: it can only fail by the state of things
    // It works on the mapping when its turn comes; one reference.
    Effect effect = Effect::none;
    Mapping* mapping = nullptr;
};

// Puts buffers into the list that the device gets, and those that are held for it. The device sees
// no empty segment: one crashes the kernel that sends it on siw. Returns the length of its list.
inline std::uint16_t store(std::span<const core::LocalBuffer> buffers, ibv_sge* pieces,
                           core::BufferHold** holds) {
    std::uint16_t count = 0;
    for (const core::LocalBuffer& from : buffers) {
        *holds++ = from.hold;
        if (from.length == 0) continue;
        pieces[count++] = {reinterpret_cast<std::uint64_t>(from.data), from.length, from.key};
    }
    return count;
}

class ShadowQueue {
public:
    ShadowQueue(std::uint32_t depth, std::uint32_t max_segments)
        : cursor(depth),
          max_segments_(max_segments),
          slots_(std::make_unique<Shadow[]>(size())),
          segments_(std::make_unique<ibv_sge[]>(size() * max_segments)),
          holds_(std::make_unique<core::BufferHold*[]>(size() * max_segments)) {}

    // Producer: the posting thread. Consumer: the harvester of the hardware queue.
    base::SpscCursor cursor;

    [[nodiscard]] Shadow& operator[](std::uint32_t position) {
        return slots_[position & cursor.mask()];
    }
    // Kept for a queue pair that has to be made anew.
    [[nodiscard]] std::span<ibv_sge> pieces(std::uint32_t position) {
        return {&segments_[first_of(position)], max_segments_};
    }
    [[nodiscard]] std::span<core::BufferHold*> holds(std::uint32_t position) {
        return {&holds_[first_of(position)], (*this)[position].segment_count};
    }
    // Fills the next slot; the references that `buffers` carry are its own from now on.
    Shadow& fill(std::span<const core::LocalBuffer> buffers) {
        const std::uint32_t position = cursor.tail_position();
        Shadow& slot = (*this)[position] = Shadow{};
        slot.segment_count = static_cast<std::uint16_t>(buffers.size());
        slot.piece_count = store(buffers, pieces(position).data(), holds(position).data());
        return slot;
    }
    void release(std::uint32_t position) {
        for (core::BufferHold* const hold : holds(position)) hold->release();
    }
    [[nodiscard]] bool is_empty() const { return cursor.size() == 0; }

private:
    [[nodiscard]] std::size_t size() const { return static_cast<std::size_t>(cursor.mask()) + 1; }
    [[nodiscard]] std::size_t first_of(std::uint32_t position) const {
        return static_cast<std::size_t>(position & cursor.mask()) * max_segments_;
    }

    const std::uint32_t max_segments_;
    std::unique_ptr<Shadow[]> slots_;
    std::unique_ptr<ibv_sge[]> segments_;
    std::unique_ptr<core::BufferHold*[]> holds_;
};

}  // namespace ndv::verbs

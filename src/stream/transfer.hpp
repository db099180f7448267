// SPDX-License-Identifier: Apache-2.0
// A send or receive that its caller need not wait for, and what a stream has to report when it
// leaves its gate.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/expected.hpp"
#include "core/memory.hpp"
#include "core/operation.hpp"

namespace ndv::stream {

// Its memory stays until it is done. All but the result is guarded by the stream's gate.
struct Transfer {
    std::shared_ptr<core::Operation> operation = std::make_shared<core::Operation>();
    std::byte* data = nullptr;
    std::uint64_t length = 0;
    std::uint64_t done = 0;                      // sends: posted; receives: filled
    std::optional<std::uint64_t> offset;         // sends: into the peer's mappings
    core::BufferHold* hold = nullptr;            // one reference
    std::shared_ptr<core::MemoryRegion> region;  // sends beyond inline
    std::uint32_t token = 0;
    bool is_finished = false;
    bool is_all = false;                   // receives: complete when full (WSK_FLAG_WAITALL)
    bool is_drain = false;                 // receives: discard until the end (WSK_FLAG_DRAIN)
    std::atomic<std::uint64_t> result{0};  // bytes, once done

    Transfer() = default;
    Transfer(const Transfer&) = delete;
    Transfer& operator=(const Transfer&) = delete;
    ~Transfer() {
        if (region && !region->is_foreign()) region->close();
        if (hold != nullptr) hold->release();
    }
};

// Operations that ended, and events that happened, since the gate was left. With the gate.
struct Outcomes {
    using OnEvent = std::function<void(std::uint32_t)>;
    struct Finished {
        std::shared_ptr<core::Operation> operation;
        Expected<void> outcome;
    };

    void finish(const std::shared_ptr<Transfer>& transfer, Expected<void> outcome) {
        if (transfer->is_finished) return;
        finished.push_back({transfer->operation, std::move(outcome)});
        transfer->is_finished = true;
        // release: pairs with the acquire of the caller that reads it when the operation is done.
        transfer->result.store(transfer->done, std::memory_order_release);
    }

    std::vector<Finished> finished;
    std::uint32_t events = 0;
    std::shared_ptr<const OnEvent> on_event;
    bool is_telling = false;  // some thread calls it
};

}  // namespace ndv::stream

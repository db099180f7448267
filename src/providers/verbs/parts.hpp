// SPDX-License-Identifier: Apache-2.0
// What the objects of one verbs adapter share; held by each of them, so that any order of
// destruction is fine.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "core/adapter.hpp"
#include "core/endpoints.hpp"
#include "core/progress.hpp"
#include "providers/verbs/device.hpp"
#include "providers/verbs/worker.hpp"

namespace ndv::verbs {

using core::Member;
using core::now;
using core::Time;

class AsyncEvents;
class CmChannel;
class LamTable;

struct AdapterParts {
    std::shared_ptr<Device> device;
    std::shared_ptr<core::Progress> progress = std::make_shared<core::Progress>();
    std::shared_ptr<Worker> worker = std::make_shared<Worker>();
    std::shared_ptr<AsyncEvents> async_events;
    std::shared_ptr<CmChannel> channel;
    core::ConnectionCounters counters;
    core::Claims claims;
    std::shared_ptr<LamTable> lams;
    // Names one hardware queue in its wr_ids, never reused. relaxed: nothing else depends on it.
    [[nodiscard]] std::uint32_t take_serial() {
        return next_serial.fetch_add(1, std::memory_order_relaxed);
    }
    std::atomic<std::uint32_t> next_serial{1};
};

}  // namespace ndv::verbs

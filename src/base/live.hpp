// SPDX-License-Identifier: Apache-2.0
// Counts live objects by kind, so that every test can end with "none left".
#pragma once

#include <array>
#include <atomic>
#include <cstddef>

namespace ndv::base {

enum class LiveKind : std::size_t {
    adapter,
    protection_domain,
    memory_region,
    buffer_hold,
    completion_queue,
    queue_pair,
    connector,
    listener,
    operation,
    link,
    logical_address_mapping,
    fast_register_memory_region,
    memory_window,
    shared_receive_queue,
    shared_endpoint,
    stream,
    stream_listener,
    outstanding,
    count_
};

inline constexpr std::array<const char*, static_cast<std::size_t>(LiveKind::count_)>
    kLiveKindNames = {"adapter",
                      "protection_domain",
                      "memory_region",
                      "buffer_hold",
                      "completion_queue",
                      "queue_pair",
                      "connector",
                      "listener",
                      "operation",
                      "link",
                      "logical_address_mapping",
                      "fast_register_memory_region",
                      "memory_window",
                      "shared_receive_queue",
                      "shared_endpoint",
                      "stream",
                      "stream_listener",
                      "outstanding"};

inline constinit std::array<std::atomic<long>, static_cast<std::size_t>(LiveKind::count_)>
    live_counts{};

template <LiveKind kKind>
class Live {
public:
    Live() { slot().fetch_add(1, std::memory_order_relaxed); }
    Live(const Live&) = delete;
    Live& operator=(const Live&) = delete;

protected:
    ~Live() { slot().fetch_sub(1, std::memory_order_relaxed); }

private:
    static std::atomic<long>& slot() { return live_counts[static_cast<std::size_t>(kKind)]; }
};

}  // namespace ndv::base

// SPDX-License-Identifier: Apache-2.0
// Counts live objects by kind, so that every test can end with "none left".
#pragma once

#include <array>
#include <atomic>
#include <cstddef>

namespace ndv::base {

#define NDV_LIVE_KIND_LIST(X)      \
    X(adapter)                     \
    X(protection_domain)           \
    X(memory_region)               \
    X(buffer_hold)                 \
    X(completion_queue)            \
    X(queue_pair)                  \
    X(connector)                   \
    X(listener)                    \
    X(operation)                   \
    X(link)                        \
    X(logical_address_mapping)     \
    X(fast_register_memory_region) \
    X(memory_window)               \
    X(shared_receive_queue)        \
    X(shared_endpoint)             \
    X(stream)                      \
    X(stream_listener)             \
    X(outstanding)

enum class LiveKind : std::size_t {
#define NDV_X(name) name,
    NDV_LIVE_KIND_LIST(NDV_X)
#undef NDV_X
};

inline constexpr std::array kLiveKindNames = {
#define NDV_X(name) #name,
    NDV_LIVE_KIND_LIST(NDV_X)
#undef NDV_X
};

inline constinit std::array<std::atomic<long>, kLiveKindNames.size()> live_counts{};

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

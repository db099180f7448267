// SPDX-License-Identifier: Apache-2.0
// The objects behind the handles: each is the structure that programs see, and what the device
// knows of it. Everything is guarded by the world's mutex.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <set>

#include "world.hpp"

namespace ndv::doubles {

struct Context;
struct MemoryRegion;
struct MemoryWindow;
struct Channel;

struct Device : ibv_device {
    Device(const Profile& made_as, int index);
    const Profile profile;
    bool is_removed = false;
    bool has_host_addresses = false;  // rdma_cm binds this host's own addresses to it
    Context* for_cm = nullptr;        // what rdma_cm_ids show
    std::set<Context*> contexts;
    std::set<CompletionQueue*> queues;
    std::unordered_map<std::uint32_t, MemoryRegion*> regions;  // by key
    std::unordered_map<std::uint32_t, MemoryWindow*> windows;  // by the number above the key's byte
    // Asked for by a test.
    std::chrono::microseconds late_initiator{0};
    std::chrono::microseconds late_receive{0};
    bool is_holding = false;  // completions wait until they are let go
};

// Events that a program has taken, and those that it has acknowledged: destruction waits.
struct Counted {
    unsigned taken = 0;
    unsigned acknowledged = 0;
};

struct Context : ibv_context {
    explicit Context(Device& of);
    ~Context();
    Device& owner;
    EventPipe<ibv_async_event> events;
    std::set<Channel*> channels;
};

struct Domain : ibv_pd {
    int users = 0;
};

struct MemoryRegion : ibv_mr {
    std::uint64_t named = 0;  // the address by which requests name its first byte
    int access = 0;
    int windows = 0;
};

struct MemoryWindow : ibv_mw {
    std::uint32_t number = 0;
    bool is_valid = false;
    MemoryRegion* region = nullptr;
    std::uint64_t address = 0;
    std::uint64_t size = 0;
    int access = 0;
    std::uint32_t qp_num = 0;
};

struct Channel : ibv_comp_channel {
    EventPipe<CompletionQueue*> events;
};

struct Completion {
    ibv_wc wc;
    bool is_solicited;
};

struct CompletionQueue : ibv_cq {
    enum class Armed { no, solicited, any };
    Device* device = nullptr;
    std::deque<Completion> ready;
    std::deque<Completion> held;
    Armed armed = Armed::no;
    int users = 0;
    int timers = 0;        // of late completions
    bool is_gone = false;  // destroyed by its program
    bool is_overrun = false;
    Counted interrupts;
    Counted events;
};

struct Receive {
    std::uint64_t id = 0;
    std::vector<ibv_sge> pieces;
};

struct SharedQueue : ibv_srq {
    Device* device = nullptr;
    std::uint32_t depth = 0;
    std::uint32_t limit = 0;
    std::uint32_t max_sge = 0;
    std::deque<Receive> receives;
    int users = 0;
    Counted events;
};

struct Send {
    ibv_send_wr wr;
    std::vector<ibv_sge> pieces;
    std::vector<std::byte> inlined;
    bool is_inline = false;
};

struct QueuePair : ibv_qp {
    Device* device = nullptr;
    ibv_qp_cap cap{};
    ibv_qp_attr attributes{};
    std::deque<Send> sends;
    std::deque<Receive> receives;
    bool signals_all = false;
    bool is_kicked = false;
    bool is_flushing = false;
    // Since when the first request has had no answer; none: it has not been sent.
    std::optional<Clock::time_point> unanswered_since;
    std::uint32_t peer = 0;   // the number of the connected one; 0: none
    std::uint64_t cm_id = 0;  // iWARP: the serial of the id that the connection belongs to
    Counted events;

    [[nodiscard]] CompletionQueue& initiator_cq() {
        return static_cast<CompletionQueue&>(*send_cq);
    }
    [[nodiscard]] CompletionQueue& receive_cq() { return static_cast<CompletionQueue&>(*recv_cq); }
    [[nodiscard]] SharedQueue* shared() { return static_cast<SharedQueue*>(srq); }
    [[nodiscard]] const Profile& profile() const { return device->profile; }
};

[[nodiscard]] inline Context& context_of(ibv_context* context) {
    return static_cast<Context&>(*context);
}

// With the mutex: an event about an object, or about the device.
void report(Context& to, ibv_event_type type, void* element = nullptr);
// Waits until a program has acknowledged what it has taken.
inline void wait_for(Lock& lock, const Counted& counted) {
    world().acknowledged.wait(lock, [&] { return counted.taken == counted.acknowledged; });
}

}  // namespace ndv::doubles

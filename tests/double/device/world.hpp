// SPDX-License-Identifier: Apache-2.0
// What all calls share: one mutex over every device, the wire (one thread that moves data and
// events, in order), faults that a test has asked for, and counts of what exists.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "abi.hpp"
#include "profile.hpp"

namespace ndv::doubles {

using Clock = std::chrono::steady_clock;
using Lock = std::unique_lock<std::mutex>;

struct Device;
struct QueuePair;
struct Id;
struct CompletionQueue;

// A call that shall fail, or take its time.
struct Fault {
    std::string call;  // "ibv_create_cq"; "ibv_modify_qp:3" is the transition to state 3
    int os_error = 0;
    int skip = 0;
    int count = 1;  // how often; -1: always
    int delay_ms = 0;
};

class World {
public:
    std::mutex mutex;
    std::condition_variable acknowledged;
    std::vector<std::unique_ptr<Device>> devices;
    std::unordered_map<std::uint32_t, QueuePair*> queue_pairs;  // by number
    std::map<std::uint64_t, Id*> ids;                           // by serial
    std::map<std::string, int> live;                            // handles of programs, by kind
    // What a removed device has left behind. Like rdma-core, the double does not free it.
    std::vector<std::shared_ptr<void>> abandoned;
    std::uint64_t next_serial = 1;

    // With the mutex: `task` runs on the wire with it, not before the delay is over.
    void after(std::chrono::microseconds delay, std::function<void()> task);
    // With the mutex: the wire looks at the queue pair's requests.
    void kick(QueuePair& qp);

    // Without the mutex. Waits as long as a fault says; 0, or the error that the call has.
    int refusal(const std::string& call);
    void add_fault(Fault fault);
    void forget_faults();
    [[nodiscard]] std::map<std::string, int> calls();

private:
    friend World& world();
    World();
    void run();

    std::condition_variable wake_;
    std::multimap<Clock::time_point, std::function<void()>> timers_;
    std::deque<std::uint32_t> kicked_;
    bool is_started_ = false;
    std::mutex faults_mutex_;
    std::vector<Fault> faults_;
    std::map<std::string, int> calls_;
};

// This process's; a forked child has one of its own.
[[nodiscard]] World& world();

// Events on the way to a program, behind a descriptor that it waits for.
template <typename T>
class EventPipe {
public:
    EventPipe() {
        if (::pipe2(ends_, O_CLOEXEC) != 0) ends_[0] = ends_[1] = -1;
    }
    EventPipe(const EventPipe&) = delete;
    EventPipe& operator=(const EventPipe&) = delete;
    ~EventPipe() {
        shut();
        ::close(ends_[0]);
    }
    [[nodiscard]] int fd() const { return ends_[0]; }
    // With the world's mutex.
    void push(T event) {
        if (ends_[1] < 0) return;
        queued.push_back(std::move(event));
        const char one = 1;
        static_cast<void>(!::write(ends_[1], &one, 1));
    }
    // From now on the descriptor reports that it is at its end, as uverbs' does with POLLERR after
    // a removal (Linux, core/uverbs_main.c: ib_uverbs_event_poll).
    void shut() {
        if (ends_[1] >= 0) ::close(ends_[1]);
        ends_[1] = -1;
    }
    // Without the mutex. False, with errno: there is none, or there will be none.
    template <typename OnTaken>
    [[nodiscard]] bool take(T& out, OnTaken on_taken) {
        while (true) {
            char one = 0;
            const auto count = ::read(ends_[0], &one, 1);
            if (count == 0) errno = EIO;
            if (count <= 0) return false;
            const Lock lock(world().mutex);
            if (queued.empty()) continue;  // of what was destroyed meanwhile
            out = std::move(queued.front());
            queued.pop_front();
            on_taken(out);
            return true;
        }
    }

    std::deque<T> queued;

private:
    int ends_[2] = {-1, -1};
};

}  // namespace ndv::doubles

// SPDX-License-Identifier: Apache-2.0
// The progress thread of one adapter: serves what no program polls or waits for, and deadlines. It
// starts with the first member, blocks signals (base/signals.hpp), and never takes the GIL. Members
// are one-shot in its epoll set; one whose connection a program polls (a lease) stays disarmed
// until the lease lapses.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/descriptor.hpp"
#include "base/expected.hpp"
#include "base/mutex.hpp"

namespace ndv::core {

using Time = std::chrono::nanoseconds;  // of the steady clock

[[nodiscard]] inline Time now() { return std::chrono::steady_clock::now().time_since_epoch(); }

enum class Lease : std::uint8_t {
    none,
    fresh,  // polled a moment ago
    held,   // a thread sleeps over it
};

// How much one step may do. A step under the GIL is small; without it, generous.
enum class Budget : std::uint8_t { small, large };

inline constexpr std::uint32_t kSmallStep = 32 * 1024;  // bytes each way under the GIL

// How long after a poll its connections are left to the poller.
inline constexpr Time kLeaseTime = std::chrono::milliseconds(1);

// A member of the progress thread's set; ids are never reused.
class Member {
public:
    Member() : id_(next_id().fetch_add(1, std::memory_order_relaxed)) {}
    Member(const Member&) = delete;
    Member& operator=(const Member&) = delete;
    virtual ~Member() = default;

    [[nodiscard]] std::uint64_t id() const { return id_; }
    // On the progress thread.
    virtual void on_ready() {}
    virtual void on_deadline() {}
    // The events to be armed for; 0: errors and hang-up only. Any thread.
    [[nodiscard]] virtual std::uint32_t wanted() const { return 0; }
    [[nodiscard]] virtual Lease lease(Time) const { return Lease::none; }

private:
    static std::atomic<std::uint64_t>& next_id() {
        static std::atomic<std::uint64_t> next{1};
        return next;
    }
    const std::uint64_t id_;
};

class Progress {
public:
    Progress() = default;
    Progress(const Progress&) = delete;
    Progress& operator=(const Progress&) = delete;
    virtual ~Progress();

    // Starts the thread on first use. Without memory: insufficient_resources.
    [[nodiscard]] Expected<void> add(const std::shared_ptr<Member>& member, int fd);
    // Arms for what the member wants now, from any thread; harmless for one that is armed.
    void arm(const Member& member);
    // No on_ready() begins after this; one may be running on the progress thread.
    void remove(const Member& member, int fd);
    // Replaces the member's deadline. The member needs no descriptor for it.
    void set_deadline(const std::shared_ptr<Member>& member, Time deadline) {
        set_deadline(*member, member, deadline);
    }
    // The same where a reference more to the member might become its last one.
    void set_deadline(const Member& member, const std::weak_ptr<Member>& weak, Time deadline);
    void clear_deadline(const Member& member);

    // A thread's sleep over connections is over: they have a lease for a moment, and the progress
    // thread looks at them again now, if it dozes. acq_rel, here and below: pairs with run().
    void lease_ended() {
        if ((doze_.fetch_or(kEnded, std::memory_order_acq_rel) & kDozes) != 0) wake();
    }
    // Nothing is left of a lease: the progress thread looks at the connections again at once.
    void lease_dropped() {
        if ((doze_.fetch_or(kEnded, std::memory_order_acq_rel) & kParks) != 0) wake();
    }

    // Ends the thread, after what it is doing; from the thread itself, without waiting.
    void stop();

private:
    struct Parked {
        std::uint64_t id;
        Time check_at;
        Time period;
    };

    // Nothing when the thread runs already.
    [[nodiscard]] Expected<void> start() NDV_REQUIRES(mutex_);
    void run();
    void wake();
    [[nodiscard]] std::shared_ptr<Member> find(std::uint64_t id);
    [[nodiscard]] int next_timeout_ms(Time at);
    void serve(std::uint64_t id, Time at);
    void serve_parked(Time at);
    void serve_deadlines(Time at);

    base::Mutex mutex_;
    std::thread thread_ NDV_GUARDED_BY(mutex_);
    base::Descriptor epoll_;  // set before the thread starts, constant afterwards
    base::Descriptor wake_;   // eventfd
    struct Entry {
        std::weak_ptr<Member> member;
        int fd;
    };
    std::unordered_map<std::uint64_t, Entry> members_ NDV_GUARDED_BY(mutex_);
    using DeadlineKey = std::pair<Time, std::uint64_t>;  // id: keys are unique
    using Deadlines = std::map<DeadlineKey, std::weak_ptr<Member>>;
    using DeadlinesOf = std::unordered_map<std::uint64_t, Time>;
    Deadlines deadlines_ NDV_GUARDED_BY(mutex_);
    DeadlinesOf deadline_of_ NDV_GUARDED_BY(mutex_);
    std::vector<Parked> parked_;  // the thread's own
    std::atomic<bool> is_stopping_{false};
    // Bits. The thread says in what sleep it is before it sleeps, and a thread that ends a lease
    // says that: one word, so that one of the two sees the other's, with the lease that was ended.
    static constexpr std::uint32_t kParks = 1;  // the thread's: parked members wait for a lease
    static constexpr std::uint32_t kDozes = 2;  // and for longer than a lease lasts
    static constexpr std::uint32_t kEnded = 4;
    std::atomic<std::uint32_t> doze_{0};
};

}  // namespace ndv::core

// SPDX-License-Identifier: Apache-2.0
// Threads that wait for a stream: the one that leads sleeps in the completion queue, those that
// follow on condition variables of their own. With the gate of the stream, but for the sleep.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <utility>

#include "base/mutex.hpp"
#include "core/progress.hpp"
#include "stream/readiness.hpp"

namespace ndv::stream {

using IsReady = std::function<bool()>;  // asked with the gate, by any thread

// A thread that sleeps while another one leads, or none can.
class Follower {
public:
    explicit Follower(const IsReady& is_ready) : is_ready_(is_ready) {}

    // False: the time is over.
    [[nodiscard]] bool sleep_until(core::Time until) {
        base::UniqueLock lock(mutex_);
        while (!is_woken_) {
            const auto ended =
                woken_.wait_until(lock.native(), std::chrono::steady_clock::time_point(until));
            if (ended == std::cv_status::timeout) return is_woken_;
        }
        return true;
    }
    // It was ready when it was woken.
    [[nodiscard]] bool is_over() const { return is_over_; }

private:
    friend class Waiting;

    void wake() {
        const base::Lock lock(mutex_);
        is_woken_ = true;
        woken_.notify_one();
    }

    const IsReady& is_ready_;
    Follower* next_ = nullptr;
    bool is_over_ = false;
    base::Mutex mutex_;
    std::condition_variable woken_;
    bool is_woken_ NDV_GUARDED_BY(mutex_) = false;
};

class Waiting {
public:
    [[nodiscard]] bool has_followers() const { return followers_ != nullptr; }
    void add(Follower& follower) { follower.next_ = std::exchange(followers_, &follower); }
    void remove(const Follower& follower) {
        Follower** at = &followers_;
        while (*at != &follower) at = &(*at)->next_;
        *at = follower.next_;
    }
    // Those whose wait is over, and one to lead.
    void wake(bool needs_leader) {
        for (Follower* one = followers_; one != nullptr; one = one->next_) {
            if (one->is_over_) continue;
            one->is_over_ = one->is_ready_();
            if (!one->is_over_ && !std::exchange(needs_leader, false)) continue;
            one->wake();
        }
    }

    bool has_leader = false;
    std::shared_ptr<Readiness> readiness;  // for those that wait with select, poll or epoll

private:
    Follower* followers_ = nullptr;
};

}  // namespace ndv::stream

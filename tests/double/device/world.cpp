// SPDX-License-Identifier: Apache-2.0
// The wire, and faults.
#include "world.hpp"

#include <signal.h>

#include <atomic>
#include <thread>
#include <utility>

#include "objects.hpp"
#include "transport.hpp"

namespace ndv::doubles {

World& world() {
    // Never destroyed: the wire may run until the process is gone. What a forked child inherits is
    // its parent's, and maybe in the middle of a change.
    static std::mutex making;
    static std::atomic<World*> made{nullptr};
    static std::atomic<pid_t> made_in{0};
    World* found = made.load(std::memory_order_acquire);
    if (found != nullptr && made_in.load(std::memory_order_acquire) == ::getpid()) return *found;
    const std::lock_guard lock(making);
    if (made_in.load(std::memory_order_acquire) != ::getpid()) {
        made.store(new World, std::memory_order_release);
        made_in.store(::getpid(), std::memory_order_release);
    }
    return *made.load(std::memory_order_acquire);
}

World::World() {
    for (const Profile& profile : profiles()) {
        devices.push_back(std::make_unique<Device>(profile, static_cast<int>(devices.size())));
    }
}

void World::after(std::chrono::microseconds delay, std::function<void()> task) {
    timers_.emplace(Clock::now() + delay, std::move(task));
    if (!std::exchange(is_started_, true)) {
        sigset_t all;
        sigset_t before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        std::thread([this] { run(); }).detach();
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
    }
    wake_.notify_one();
}

void World::kick(QueuePair& qp) {
    if (std::exchange(qp.is_kicked, true)) return;
    kicked_.push_back(qp.qp_num);
    after(std::chrono::microseconds(0), [] {});
}

void World::run() {
    Lock lock(mutex);
    while (true) {
        if (!timers_.empty() && timers_.begin()->first <= Clock::now()) {
            auto task = timers_.extract(timers_.begin());
            task.mapped()();
        } else if (!kicked_.empty()) {
            const auto found = queue_pairs.find(kicked_.front());
            kicked_.pop_front();
            if (found == queue_pairs.end()) continue;
            found->second->is_kicked = false;
            step(*found->second);
        } else if (timers_.empty()) {
            wake_.wait(lock);
        } else {
            wake_.wait_until(lock, Clock::time_point(timers_.begin()->first));
        }
    }
}

int World::refusal(const std::string& call) {
    int delay_ms = 0;
    int os_error = 0;
    {
        const std::lock_guard lock(faults_mutex_);
        ++calls_[call];
        for (Fault& fault : faults_) {
            if (fault.call != call && fault.call != "*") continue;
            if (fault.skip > 0) {
                --fault.skip;
                continue;
            }
            if (fault.count == 0) continue;
            if (fault.count > 0) --fault.count;
            delay_ms = std::max(delay_ms, fault.delay_ms);
            if (os_error == 0) os_error = fault.os_error;
        }
    }
    if (delay_ms > 0) std::this_thread::sleep_for(std::chrono::milliseconds(delay_ms));
    return os_error;
}

void World::add_fault(Fault fault) {
    const std::lock_guard lock(faults_mutex_);
    faults_.push_back(std::move(fault));
}

void World::forget_faults() {
    const std::lock_guard lock(faults_mutex_);
    faults_.clear();
    calls_.clear();
}

std::map<std::string, int> World::calls() {
    const std::lock_guard lock(faults_mutex_);
    return calls_;
}

}  // namespace ndv::doubles

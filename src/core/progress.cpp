// SPDX-License-Identifier: Apache-2.0
// The progress loop and leases.
#include "core/progress.hpp"

#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <new>
#include <system_error>
#include <utility>

#include "base/shortage.hpp"
#include "base/signals.hpp"

namespace ndv::core {
namespace {

constexpr Time kLongestDoze = std::chrono::milliseconds(32);
constexpr std::uint64_t kWakeId = 0;
// The thread looks at is_stopping_ by itself now and then: a program that closes all descriptors
// takes the wake-up away.
constexpr int kLongestSleep_ms = 2000;

}  // namespace

Progress::~Progress() { stop(); }

Expected<void> Progress::start() {
    if (is_stopping_.load(std::memory_order_relaxed)) {
        return fail(Status::file_forced_closed, "the adapter is closed");
    }
    if (thread_.joinable()) return {};
    epoll_ = base::Descriptor(::epoll_create1(EPOLL_CLOEXEC));
    wake_ = base::Descriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = kWakeId;
    if (!epoll_ || !wake_ || ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event) != 0) {
        return fail(Status::insufficient_resources, "no descriptors for the progress thread",
                    "raise the limit on open files (ulimit -n)", errno);
    }
    const base::BlockedSignals blocked;
    try {
        thread_ = std::thread([this] { run(); });
    } catch (const std::system_error& error) {
        return fail(Status::insufficient_resources, "the progress thread did not start",
                    "raise the limit on processes (ulimit -u)", error.code().value());
    }
    return {};
}

Expected<void> Progress::add(const std::shared_ptr<Member>& member, int fd) {
    const base::Lock lock(mutex_);
    if (auto started = start(); !started) return started;
    try {
        members_[member->id()] = {member, fd};
    } catch (const std::bad_alloc&) {
        return fail(Status::insufficient_resources, "no memory for another connection", {}, ENOMEM);
    }
    epoll_event event{};
    event.events = member->wanted() | EPOLLONESHOT;
    event.data.u64 = member->id();
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
        const int os_error = errno;
        members_.erase(member->id());
        return fail(Status::insufficient_resources, "the socket joins no epoll set", {}, os_error);
    }
    return {};
}

void Progress::arm(const Member& member) {
    const base::Lock lock(mutex_);
    // Under the lock, because a number that was closed may be another member's by now.
    const auto found = members_.find(member.id());
    if (found == members_.end()) return;
    epoll_event event{};
    event.events = member.wanted() | EPOLLONESHOT;
    event.data.u64 = member.id();
    static_cast<void>(::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, found->second.fd, &event));
}

void Progress::remove(const Member& member, int fd) {
    const base::Lock lock(mutex_);
    if (members_.erase(member.id()) == 0) return;
    static_cast<void>(::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr));
}

void Progress::set_deadline(const Member& member, const std::weak_ptr<Member>& weak,
                            Time deadline) {
    const base::Lock lock(mutex_);
    const DeadlineKey key{deadline, member.id()};
    Deadlines::iterator placed;
    if (const auto known = deadline_of_.find(member.id()); known != deadline_of_.end()) {
        if (known->second == deadline) return;
        // By its node, which takes no memory: the old one goes only where there is the new one.
        auto node = deadlines_.extract({known->second, member.id()});
        node.key() = key;
        placed = deadlines_.insert(std::move(node)).position;
        known->second = deadline;
    } else {
        placed = deadlines_.emplace(key, weak).first;
        try {
            deadline_of_.emplace(member.id(), deadline);
        } catch (const std::bad_alloc&) {
            deadlines_.erase(placed);
            throw;
        }
    }
    // Without the thread, which the first connection tries to start again, it waits for that.
    if (placed == deadlines_.begin() && start()) wake();
}

void Progress::clear_deadline(const Member& member) {
    const base::Lock lock(mutex_);
    const auto known = deadline_of_.find(member.id());
    if (known == deadline_of_.end()) return;
    deadlines_.erase({known->second, member.id()});
    deadline_of_.erase(known);
}

void Progress::wake() {
    if (!wake_) return;
    const std::uint64_t one = 1;
    static_cast<void>(!::write(wake_.get(), &one, sizeof one));
}

std::shared_ptr<Member> Progress::find(std::uint64_t id) {
    const base::Lock lock(mutex_);
    const auto found = members_.find(id);
    return found == members_.end() ? nullptr : found->second.member.lock();
}

int Progress::next_timeout_ms(Time at) {
    std::optional<Time> next;
    {
        const base::Lock lock(mutex_);
        if (!deadlines_.empty()) next = deadlines_.begin()->first.first;
    }
    for (const Parked& parked : parked_) {
        if (!next || parked.check_at < *next) next = parked.check_at;
    }
    if (!next) return kLongestSleep_ms;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(*next - at).count();
    return static_cast<int>(std::clamp<std::int64_t>(left, 0, kLongestSleep_ms));
}

void Progress::run() {
    base::prepare_thread();
    pthread_setname_np(pthread_self(), "ndverbs");
    std::array<epoll_event, 64> events;
    while (!is_stopping_.load(std::memory_order_acquire)) {  // pairs with stop()
        int timeout = next_timeout_ms(now());
        // acq_rel, as the exchange below: pairs with lease_ended() and lease_dropped().
        if (!parked_.empty() &&
            (doze_.fetch_or(timeout > 1 ? kParks | kDozes : kParks, std::memory_order_acq_rel) &
             kEnded) != 0) {
            timeout = 0;
        }
        const int count =
            ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout);
        // The descriptor was closed behind our back: deadlines are still kept.
        if (count < 0 && errno != EINTR) ::poll(nullptr, 0, std::clamp(timeout, 1, 100));
        const Time at = now();
        if ((doze_.exchange(0, std::memory_order_acq_rel) & kEnded) != 0) {
            for (Parked& parked : parked_) parked.check_at = at;
        }
        for (int i = 0; i < count; ++i) {
            const std::uint64_t id = events[static_cast<std::size_t>(i)].data.u64;
            if (id == kWakeId) {
                std::uint64_t drained = 0;
                static_cast<void>(!::read(wake_.get(), &drained, sizeof drained));
            } else {
                serve(id, at);
            }
        }
        serve_parked(at);
        serve_deadlines(at);
    }
}

void Progress::serve(std::uint64_t id, Time at) {
    const std::shared_ptr<Member> member = find(id);
    if (!member) return;
    try {
        if (member->lease(at) != Lease::none) {
            const auto is_same = [id](const Parked& parked) { return parked.id == id; };
            if (std::none_of(parked_.begin(), parked_.end(), is_same)) {
                parked_.push_back({id, at + kLeaseTime, kLeaseTime});
            }
            return;
        }
        member->on_ready();
    } catch (const std::bad_alloc&) {
        // What is ready still is when it is armed again.
        base::pause_for_memory();
    }
    arm(*member);
}

void Progress::serve_parked(Time at) {
    for (std::size_t i = 0; i < parked_.size();) {
        Parked& parked = parked_[i];
        if (parked.check_at > at) {
            ++i;
            continue;
        }
        const std::shared_ptr<Member> member = find(parked.id);
        const Lease lease = member ? member->lease(at) : Lease::none;
        if (lease == Lease::none) {
            const std::uint64_t id = parked.id;
            parked = parked_.back();
            parked_.pop_back();
            if (member) serve(id, at);
            continue;
        }
        // While a thread sleeps over it: doze longer and longer; lease_ended() wakes us.
        parked.period =
            lease == Lease::held ? std::min(2 * parked.period, kLongestDoze) : kLeaseTime;
        parked.check_at = at + parked.period;
        ++i;
    }
}

void Progress::serve_deadlines(Time at) {
    while (true) {
        std::shared_ptr<Member> member;
        Deadlines::node_type due;
        DeadlinesOf::node_type known;
        {
            const base::Lock lock(mutex_);
            const auto first = deadlines_.begin();
            if (first == deadlines_.end() || first->first.first > at) return;
            member = first->second.lock();
            known = deadline_of_.extract(first->first.second);
            due = deadlines_.extract(first);
        }
        if (!member) continue;
        try {
            member->on_deadline();
        } catch (const std::bad_alloc&) {
            // Once more in a moment, by the nodes that are there, unless it has another by now.
            const base::Lock lock(mutex_);
            due.key().first = known.mapped() = at + base::kMemoryPause;
            if (deadline_of_.insert(std::move(known)).inserted) deadlines_.insert(std::move(due));
        }
    }
}

void Progress::stop() {
    std::thread thread;
    {
        const base::Lock lock(mutex_);
        is_stopping_.store(true, std::memory_order_release);  // pairs with run()
        thread = std::move(thread_);
    }
    if (!thread.joinable()) return;
    if (thread.get_id() == std::this_thread::get_id()) {
        thread.detach();  // a callback-free member dropped the last reference on this very thread
        return;
    }
    wake();
    thread.join();
}

}  // namespace ndv::core

// SPDX-License-Identifier: Apache-2.0
// Leases, and the one epoll_wait of a waiting thread.
#include "providers/soft/completion_queue.hpp"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/shortage.hpp"
#include "providers/soft/adapter.hpp"
#include "providers/soft/bell.hpp"
#include "providers/soft/queue_pair.hpp"

namespace ndv::soft {
namespace {

constexpr std::uint64_t kWakeId = 0;

// A program that polls is back from a step, of at most some megabytes each way, in that time.
constexpr Time kLongestStep = std::chrono::milliseconds(10);

// Arm, poll again, sleep: a caller that has armed is about to sleep, unless it polls more often
// than that.
constexpr std::uint32_t kPollsBeforeSleep = 8;

}  // namespace

Expected<std::shared_ptr<CompletionQueue>> CompletionQueue::create(
    std::uint32_t depth, std::shared_ptr<Progress> progress) {
    base::Descriptor epoll(::epoll_create1(EPOLL_CLOEXEC));
    base::Descriptor wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = kWakeId;
    if (!epoll || !wake || ::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wake.get(), &event) != 0) {
        return fail(Status::insufficient_resources, "create_cq: no descriptors",
                    "raise the limit on open files (ulimit -n)", errno);
    }
    return std::make_shared<CompletionQueue>(depth, std::move(progress), std::move(epoll),
                                             std::move(wake));
}

CompletionQueue::CompletionQueue(std::uint32_t depth, std::shared_ptr<Progress> progress,
                                 base::Descriptor epoll, base::Descriptor wake)
    : core::CompletionQueue(depth),
      progress_(std::move(progress)),
      epoll_(std::move(epoll)),
      wake_(std::move(wake)) {}

Expected<void> CompletionQueue::attach(const std::shared_ptr<QueuePair>& qp, int fd,
                                       std::uint32_t events) {
    const base::Lock lock(mutex_);
    epoll_event event{};
    event.events = events;
    event.data.u64 = qp->id();
    members_[qp->id()] = {qp, nullptr};
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
        const int os_error = errno;
        members_.erase(qp->id());
        return fail(Status::insufficient_resources,
                    "connect: the completion queue cannot watch another connection",
                    "raise fs.epoll.max_user_watches, or close connections", os_error);
    }
    members_changed();
    return {};
}

Expected<void> CompletionQueue::replace(const QueuePair& qp, int fd,
                                        const std::shared_ptr<Bell>& bell) {
    const base::Lock lock(mutex_);
    epoll_event event{};
    // By edge: the bell is silenced by the progress thread alone, which would not hear it
    // otherwise. A thread that sleeps here has looked behind its doze.
    event.events = EPOLLIN | EPOLLET;
    event.data.u64 = qp.id();
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, bell->descriptor(), &event) != 0) {
        return base::fail_anyhow(Status::insufficient_resources, "out of memory", errno);
    }
    static_cast<void>(::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr));
    if (const auto found = members_.find(qp.id()); found != members_.end()) {
        found->second.bell = bell;
        ++bells_;
        members_changed();
    }
    return {};
}

void CompletionQueue::modify(const QueuePair& qp, int fd, std::uint32_t events) {
    const base::Lock lock(mutex_);
    if (members_.find(qp.id()) == members_.end()) return;
    epoll_event event{};
    event.events = events;
    event.data.u64 = qp.id();
    static_cast<void>(::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event));
}

void CompletionQueue::detach(const QueuePair& qp, int fd) {
    const base::Lock lock(mutex_);
    const auto found = members_.find(qp.id());
    if (found == members_.end()) return;
    const std::shared_ptr<Bell> bell = std::move(found->second.bell);
    if (bell) {
        fd = bell->descriptor();
        --bells_;
    }
    members_.erase(found);
    members_changed();
    static_cast<void>(::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr));
}

Lease CompletionQueue::lease(Time at) const {
    // acquire: pairs with do_wait(). relaxed: see its declaration.
    if (holders_.load(std::memory_order_acquire) > 0) return Lease::held;
    // A loop that sleeps is back within the time of a lease; one that is not has other things to
    // do.
    if (is_watched_.load(std::memory_order_acquire)) {
        return has_asked_.exchange(true, std::memory_order_relaxed) ? Lease::none : Lease::fresh;
    }
    // A poll without a clock leaves it to this thread to say when that was: since it asked last. An
    // exchange, so that an end of the lease in between stays one.
    std::int64_t until = kSinceAsked;
    if (lease_until_.compare_exchange_strong(until, (at + kLeaseTime).count(),
                                             std::memory_order_relaxed)) {
        return Lease::fresh;
    }
    return until > at.count() ? Lease::fresh : Lease::none;
}

bool CompletionQueue::begin_watch() {
    // release: pairs with lease().
    has_asked_.store(false, std::memory_order_relaxed);
    if (!is_watched_.exchange(true, std::memory_order_acq_rel)) begin_sleep();
    if (!is_empty() || is_failure(status())) return true;
    const base::Lock lock(mutex_);
    bool has_news = false;
    for (const auto& [id, seat] : members_) has_news |= seat.bell && seat.bell->doze();
    return has_news;
}

void CompletionQueue::end_watch() {
    if (!is_watched_.exchange(false, std::memory_order_acq_rel)) return;
    end_sleep();
    // relaxed: lease_ended() publishes it.
    lease_until_.store((now() + kLeaseTime).count(), std::memory_order_relaxed);
    // Also takes out of the set what would keep it readable.
    static_cast<void>(step_ready(0, core::Budget::small));
    progress_->lease_ended();
}

void CompletionQueue::members_changed() {
    // seq_cst, both: pairs with look(). Either that sees the new epoch, or this waits for it, which
    // is for some loads.
    epoch_.fetch_add(1, std::memory_order_seq_cst);
    while (looks_.load(std::memory_order_seq_cst)) std::this_thread::yield();
}

CompletionQueue::Look CompletionQueue::look(std::shared_ptr<QueuePair>& only) {
    while (true) {
        // seq_cst, both: pairs with members_changed().
        looks_.exchange(true, std::memory_order_seq_cst);
        const bool is_current = epoch_.load(std::memory_order_seq_cst) == seen_epoch_;
        const auto has_any = [](const Bell* bell) { return bell->has_news(); };
        bool has_news = false;
        if (is_current) {
            const auto end = seen_bells_.end();
            const auto found = std::find_if(seen_bells_.begin(), end, has_any);
            has_news = found != end;
            if (has_news && std::none_of(found + 1, end, has_any)) only = (*found)->queue_pair();
        }
        // release: pairs with members_changed(): what was looked at may go.
        looks_.store(false, std::memory_order_release);
        if (is_current) return !sees_all_ ? Look::by_tcp : has_news ? Look::news : Look::idle;
        const base::Lock lock(mutex_);
        seen_bells_.clear();
        sees_all_ = bells_ == members_.size();
        if (sees_all_) {
            for (const auto& [id, seat] : members_) seen_bells_.push_back(seat.bell.get());
        }
        // relaxed: changed under the mutex alone.
        seen_epoch_ = epoch_.load(std::memory_order_relaxed);
    }
}

std::shared_ptr<QueuePair> CompletionQueue::only_member(bool& has_several) const {
    const base::Lock lock(mutex_);
    has_several = members_.size() > 1;
    return members_.size() == 1 ? members_.begin()->second.qp.lock() : nullptr;
}

bool CompletionQueue::is_awaited() const {
    const auto open = armed();
    return open && *open != core::Notify::errors;
}

bool CompletionQueue::is_polled(Time at) {
    if (was_polled()) polled_at_ = at;
    return at - polled_at_ < kLongestStep;
}

// Without a lease the progress thread hears at once of what comes while the caller sleeps.
bool CompletionQueue::takes_lease() {
    if (!is_awaited()) return true;
    // relaxed: see its declaration.
    return polls_since_arm_.fetch_add(1, std::memory_order_relaxed) >= kPollsBeforeSleep;
}

void CompletionQueue::end_lease() {
    // relaxed: lease_dropped() publishes them.
    polls_since_arm_.store(0, std::memory_order_relaxed);
    lease_until_.store(0, std::memory_order_relaxed);
    progress_->lease_dropped();
}

bool CompletionQueue::do_progress(core::Budget budget) {
    std::shared_ptr<QueuePair> only;
    const Look seen = look(only);
    if (takes_lease()) {
        const std::int64_t until =
            seen == Look::by_tcp ? (now() + kLeaseTime).count() : kSinceAsked;
        // relaxed, both: see its declaration.
        if (lease_until_.load(std::memory_order_relaxed) != until) {
            lease_until_.store(until, std::memory_order_relaxed);
        }
    }
    if (seen == Look::idle) return false;
    if (seen == Look::news && only) return only->take_messages(budget);
    bool has_several = false;
    // One connection: reading costs less than asking whether to read.
    only = only_member(has_several);
    if (only) return only->step(QueuePair::kIo, budget);
    if (!has_several) return false;
    bool has_stepped = false;
    const bool is_more = step_direct(false, budget, has_stepped);
    if (seen == Look::news) return is_more;
    return step_ready(0, budget) == Ready::more || is_more;
}

CompletionQueue::Ready CompletionQueue::step_ready(int timeout_ms, core::Budget budget) {
    std::array<epoll_event, 32> events;
    int count = 0;
    if (timeout_ms == 0) {
        count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), 0);
    } else {
        // Another thread may step one of the connections meanwhile, and push what this one waits
        // for.
        const Sleeper sleeper(*this);
        if (is_wait_over()) return Ready::done;
        bool has_stepped = false;
        const bool is_more = step_direct(true, budget, has_stepped);
        if (has_stepped) return is_more ? Ready::more : Ready::done;
        count =
            ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout_ms);
    }
    if (count < 0) return Ready::interrupted;
    bool is_more = false;
    for (int i = 0; i < count; ++i) {
        const std::uint64_t id = events[static_cast<std::size_t>(i)].data.u64;
        if (id == kWakeId) {
            std::uint64_t drained = 0;
            static_cast<void>(!::read(wake_.get(), &drained, sizeof drained));
            continue;
        }
        std::shared_ptr<QueuePair> qp;
        {
            const base::Lock lock(mutex_);
            const auto found = members_.find(id);
            if (found != members_.end()) qp = found->second.qp.lock();
        }
        if (qp && qp->step(QueuePair::kIo, budget)) is_more = true;
    }
    return is_more ? Ready::more : Ready::done;
}

bool CompletionQueue::step_direct(bool dozes, core::Budget budget, bool& has_stepped) {
    std::vector<std::shared_ptr<QueuePair>> found;
    {
        const base::Lock lock(mutex_);
        if (bells_ == 0) return false;
        found.reserve(bells_);
        for (const auto& [id, seat] : members_) {
            if (!seat.bell || !(dozes ? seat.bell->doze() : seat.bell->has_news())) continue;
            if (auto qp = seat.qp.lock()) found.push_back(std::move(qp));
        }
    }
    bool is_more = false;
    for (const auto& qp : found) {
        has_stepped = true;
        if (qp->step(QueuePair::kIo, budget)) is_more = true;
    }
    return is_more;
}

bool CompletionQueue::spin_on_only_member() {
    bool has_several = false;
    const auto only = only_member(has_several);
    return only &&
           spin([&only] { static_cast<void>(only->step(QueuePair::kIo, core::Budget::large)); });
}

void CompletionQueue::do_wait(std::chrono::nanoseconds timeout) {
    // However the sleep ends: a step that finds no memory throws.
    struct Hold {
        CompletionQueue& queue;
        ~Hold() {
            // acq_rel, as below: pairs with lease(). relaxed: lease_ended() publishes it.
            queue.lease_until_.store((now() + kLeaseTime).count(), std::memory_order_relaxed);
            queue.holders_.fetch_sub(1, std::memory_order_acq_rel);
            queue.progress_->lease_ended();
        }
    };
    holders_.fetch_add(1, std::memory_order_acq_rel);
    const Hold hold{*this};
    const Time until = now() + timeout;
    Ready ready = Ready::done;
    while (ready != Ready::interrupted && !is_wait_over()) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - now()).count();
        if (left <= 0) break;
        if (spin_on_only_member()) break;
        const int wait_ms =
            ready == Ready::more ? 0 : static_cast<int>(std::min<std::int64_t>(left, 1'000'000));
        const Time began = now();
        ready = step_ready(wait_ms, core::Budget::large);
        note_sleep(now() - began);
    }
}

// Its queue pairs end at once, as the one does whose completion has no room.
void CompletionQueue::overrun() {
    mark_dead(Status::buffer_overflow);
    std::vector<std::shared_ptr<QueuePair>> members;
    {
        const base::Lock lock(mutex_);
        for (const auto& [id, seat] : members_) {
            if (auto qp = seat.qp.lock()) members.push_back(std::move(qp));
        }
    }
    for (const auto& qp : members) qp->end(core::End::overrun);
}

Expected<void> CompletionQueue::do_resize(std::uint32_t depth) {
    const std::uint32_t most = soft_limits().max_cq_depth;
    if (depth <= most) return {};
    return fail(Status::invalid_parameter, "resize: depth " + std::to_string(depth) +
                                               " exceeds the adapter's " + std::to_string(most));
}

void CompletionQueue::set_notify_timer(std::chrono::nanoseconds delay) {
    if (const auto self = std::static_pointer_cast<CompletionQueue>(weak_from_this().lock())) {
        progress_->set_deadline(self, now() + delay);
    }
}

void CompletionQueue::wake() noexcept {
    const std::uint64_t one = 1;
    static_cast<void>(!::write(wake_.get(), &one, sizeof one));
}

}  // namespace ndv::soft

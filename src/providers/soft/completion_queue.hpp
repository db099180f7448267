// SPDX-License-Identifier: Apache-2.0
// The soft completion queue: a thread that polls or waits steps the connections of the queue.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/descriptor.hpp"
#include "base/mutex.hpp"
#include "core/completion_queue.hpp"
#include "providers/soft/progress.hpp"

namespace ndv::soft {

class Bell;
class QueuePair;

class CompletionQueue final : public core::CompletionQueue, public Member {
public:
    [[nodiscard]] static Expected<std::shared_ptr<CompletionQueue>> create(
        std::uint32_t depth, std::shared_ptr<Progress> progress);
    CompletionQueue(std::uint32_t depth, std::shared_ptr<Progress> progress, base::Descriptor epoll,
                    base::Descriptor wake);

    // Connections come and go; `events` are level-triggered.
    [[nodiscard]] Expected<void> attach(const std::shared_ptr<QueuePair>& qp, int fd,
                                        std::uint32_t events);
    // From here on the connection is watched by its bell in place of `fd`.
    [[nodiscard]] Expected<void> replace(const QueuePair& qp, int fd,
                                         const std::shared_ptr<Bell>& bell);
    void modify(const QueuePair& qp, int fd, std::uint32_t events);
    void detach(const QueuePair& qp, int fd);

    // Asked by the progress thread, as is_polled() is.
    [[nodiscard]] Lease lease(Time at) const override;
    // A program waits for the arm, and may be asleep.
    [[nodiscard]] bool is_awaited() const;
    // A program polls it, and so looks at its connections again soon. Asked by the progress thread.
    [[nodiscard]] bool is_polled(Time at);
    void end_lease() override;
    // The loop sleeps over the epoll set itself, and serves the connections when it is back. While
    // it takes its time, the progress thread does.
    [[nodiscard]] Expected<int> watch_descriptor() override { return epoll_.get(); }
    [[nodiscard]] bool begin_watch() override;
    void end_watch() override;
    // A fault.
    void overrun();
    [[nodiscard]] const std::shared_ptr<Progress>& progress() const { return progress_; }

    // Member: a moderated notification is due.
    void on_deadline() override { notify_if_due(); }

private:
    [[nodiscard]] bool do_progress(core::Budget budget) override;
    void do_wait(std::chrono::nanoseconds timeout) override;
    void wake() noexcept override;
    [[nodiscard]] Expected<void> do_resize(std::uint32_t depth) override;
    [[nodiscard]] bool has_notify_timer() const override { return true; }
    void set_notify_timer(std::chrono::nanoseconds delay) override;
    [[nodiscard]] bool takes_lease();
    // Steps the only connection for a moment; true: the queue holds something now.
    [[nodiscard]] bool spin_on_only_member();
    enum class Ready : std::uint8_t { done, more, interrupted };
    // Steps what is ready within `timeout_ms`; more: work is left for a large budget.
    [[nodiscard]] Ready step_ready(int timeout_ms, core::Budget budget);
    [[nodiscard]] std::shared_ptr<QueuePair> only_member(bool& has_several) const;
    // What the members have, as far as it shows without a system call, a clock or the mutex: of
    // direct connections everything, of others nothing.
    enum class Look : std::uint8_t { idle, news, by_tcp };
    // `only`: the one direct connection that has news, if no other one has.
    [[nodiscard]] Look look(std::shared_ptr<QueuePair>& only);
    // Called with the mutex, behind each change of the members: no look has them as they were.
    void members_changed();
    // Steps direct connections that have something; none of them is in the set while it does not
    // sleep. `dozes`: from here on they ring.
    [[nodiscard]] bool step_direct(bool dozes, core::Budget budget, bool& has_stepped);

    const std::shared_ptr<Progress> progress_;
    const base::Descriptor epoll_;
    const base::Descriptor wake_;  // eventfd: another thread pushed while we slept
    mutable base::Mutex mutex_;
    struct Seat {
        std::weak_ptr<QueuePair> qp;
        std::shared_ptr<Bell> bell;  // null: by TCP
    };
    std::unordered_map<std::uint64_t, Seat> members_ NDV_GUARDED_BY(mutex_);
    std::size_t bells_ NDV_GUARDED_BY(mutex_) = 0;  // of them
    // The bells as the consumer saw them at an epoch, which each change of the members ends. It may
    // use them while `looks_` is set, which that change waits for.
    std::atomic<std::uint64_t> epoch_{1};
    std::atomic<bool> looks_{false};
    std::uint64_t seen_epoch_ = 0;         // the consumer's
    bool sees_all_ = false;                // ... every member has a bell
    std::vector<const Bell*> seen_bells_;  // ... and these are they
    // relaxed, both: a late look costs a moment of leasing, and lease_ended() or lease_dropped()
    // publishes an end.
    static constexpr std::int64_t kSinceAsked = -1;     // polled without a clock since lease()
    mutable std::atomic<std::int64_t> lease_until_{0};  // ns of the steady clock
    std::atomic<std::uint32_t> polls_since_arm_{0};     // that found the ring empty
    Time polled_at_ = Time::min() / 2;                  // the progress thread's
    std::atomic<int> holders_{0};                       // threads that sleep over the connections
    std::atomic<bool> is_watched_{false};               // by a loop, which begins and ends it
    mutable std::atomic<bool> has_asked_{false};        // the progress thread, since it began
};

}  // namespace ndv::soft

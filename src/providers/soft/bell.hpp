// SPDX-License-Identifier: Apache-2.0
// One end of a direct connection in epoll sets: what a thread sleeps over that its peer wakes.
#pragma once

#include <memory>

#include "direct/line.hpp"
#include "direct/stream.hpp"
#include "providers/soft/meeting.hpp"
#include "providers/soft/progress.hpp"

namespace ndv::soft {

class QueuePair;

class Bell final : public Member, public direct::Bells {
public:
    Bell(std::shared_ptr<Meeting> meeting, bool is_active, std::weak_ptr<QueuePair> qp);

    [[nodiscard]] direct::Line& line() { return line_; }
    [[nodiscard]] int descriptor() const { return meeting_->bell(is_active_); }
    // Before a thread sleeps. True: there is something to do.
    [[nodiscard]] bool doze() const { return line_.doze(); }
    [[nodiscard]] bool has_news() const { return line_.has_news(); }

    [[nodiscard]] std::shared_ptr<QueuePair> queue_pair() const { return qp_.lock(); }

    void ring_peer() override { ring(meeting_->bell(!is_active_)); }
    void ring_self() override { ring(descriptor()); }
    [[nodiscard]] bool lives_peer() const override { return meeting_->lives_peer(); }

    // Member.
    void on_ready() override;
    void on_deadline() override {}
    [[nodiscard]] std::uint32_t wanted() const override;
    [[nodiscard]] Lease lease(Time at) const override;

private:
    static void ring(int descriptor);

    const std::shared_ptr<Meeting> meeting_;
    const bool is_active_;
    const std::weak_ptr<QueuePair> qp_;
    direct::Line line_;
};

}  // namespace ndv::soft

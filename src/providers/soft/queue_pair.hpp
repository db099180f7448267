// SPDX-License-Identifier: Apache-2.0
// The soft queue pair: the queues, the state word, and the step that moves bytes between a link
// and the protocol engine. The thread that owns the word owns everything marked "stepper".
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/mutex.hpp"
#include "base/state_word.hpp"
#include "core/queue_pair.hpp"
#include "direct/stream.hpp"
#include "iwarp/connection.hpp"
#include "providers/soft/bell.hpp"
#include "providers/soft/completion_queue.hpp"
#include "providers/soft/link.hpp"
#include "providers/soft/meeting.hpp"
#include "providers/soft/memory_table.hpp"
#include "providers/soft/progress.hpp"
#include "providers/soft/shared_receive_queue.hpp"
#include "providers/soft/totals.hpp"

namespace ndv::soft {

// Bytes that a step moves each way.
constexpr std::size_t step_bytes(core::Budget budget) {
    return budget == core::Budget::small ? core::kSmallStep : 4U * 1024 * 1024;
}

// What core calls it, as the engines do.
[[nodiscard]] iwarp::RequestKind kind_of(const core::WorkRequest& request);

class QueuePair final : public core::QueuePair, public Member, private iwarp::ReceiveSupply {
public:
    // Reasons to step.
    static constexpr unsigned kTransmit = 1;
    static constexpr unsigned kReceive = 2;
    static constexpr unsigned kIo = kTransmit | kReceive;
    static constexpr unsigned kGiveWay = 64;
    static constexpr unsigned kLink = 128;  // direct: its TCP connection has something

    QueuePair(std::shared_ptr<core::ProtectionDomain> pd,
              std::shared_ptr<CompletionQueue> receive_cq,
              std::shared_ptr<CompletionQueue> initiator_cq, const core::QueuePairLimits& limits,
              core::RequestContexts* contexts, std::shared_ptr<MemoryTable> table,
              std::uint64_t domain, std::shared_ptr<Progress> progress,
              std::shared_ptr<StreamTotals> totals,
              std::shared_ptr<SharedReceiveQueue> srq = nullptr);
    ~QueuePair() override;

    // Steps here, or leaves the step to the thread that is at it. True: work is left for a large
    // budget.
    bool step(unsigned reasons, core::Budget budget);

    // After a receive was posted, which stays posted whether the step finds memory or not: without,
    // the connection ends.
    void step_for_receive();

    // Hands over the stream after its start-up. With a meeting, the two ends may go on without it.
    [[nodiscard]] Expected<void> attach(std::unique_ptr<Link> link,
                                        const iwarp::ConnectionConfig& config,
                                        std::weak_ptr<core::QueuePairObserver> observer,
                                        std::shared_ptr<Meeting> meeting = nullptr);
    // What the peer of a direct connection may reach.
    [[nodiscard]] Reach reach() const { return {table_, domain_, id()}; }
    // What carries the connection, and whether this side reaches all memory of the peer's. Constant
    // once the connector is connected.
    [[nodiscard]] const char* transport() const {
        return transport_.load(std::memory_order_relaxed);
    }
    [[nodiscard]] bool is_direct() const { return is_direct_.load(std::memory_order_relaxed); }
    [[nodiscard]] bool reaches_all() const { return reaches_all_.load(std::memory_order_relaxed); }
    // Everything posted goes out, then FIN; on_drained() follows.
    void disconnect() override;
    void end(core::End why) override;

    // Where nothing is posted, the lane has done it.
    [[nodiscard]] std::size_t move_now(core::OperationType type, std::byte* own,
                                       std::uint64_t remote_address, std::uint32_t token,
                                       std::span<const core::Span> spans) override;
    [[nodiscard]] bool fetch_now(const core::WorkRequest& request, std::uint64_t& found) override;
    [[nodiscard]] bool transmit(core::Budget budget) override {
        if (is_direct() && send_queue_.cursor.size() == 0 &&
            !lane_has_rest_.load(std::memory_order_relaxed)) {
            return false;
        }
        lane_has_rest_.store(false, std::memory_order_relaxed);
        return step(kTransmit, budget);
    }
    void flush() override;
    // For a poll, of a direct connection that has something: see the lane below. True: work is left
    // for a large budget.
    [[nodiscard]] bool take_messages(core::Budget budget);

    // Member.
    void on_ready() override;
    void on_deadline() override;
    // Since when a message under way holds a receive of the shared queue and stands still.
    [[nodiscard]] std::optional<Time> held_since() const;
    [[nodiscard]] std::uint32_t wanted() const override;
    [[nodiscard]] Lease lease(Time at) const override;
    // The same of a direct connection's bell, which has the descriptor to sleep over then.
    void on_bell();
    [[nodiscard]] Lease bell_lease(Time at) const;

private:
    // Requests to the stepper, beside the reasons above.
    static constexpr unsigned kAttach = 4;
    static constexpr unsigned kFlush = 8;
    static constexpr unsigned kDisconnect = 16;
    static constexpr unsigned kDeadline = 32;

    [[nodiscard]] Status do_post(const core::WorkRequest& request,
                                 std::span<const core::LocalBuffer> buffers,
                                 std::uint32_t length) override;
    [[nodiscard]] Status do_post_receive(const core::ReceiveRequest& request,
                                         std::span<const core::LocalBuffer> buffers,
                                         std::uint32_t length) override;
    [[nodiscard]] Status do_fast_register(const core::FastRegisterRequest& request) override;
    [[nodiscard]] Status do_bind(const core::BindRequest& request) override;
    [[nodiscard]] Status do_invalidate(const core::InvalidateRequest& request) override;
    [[nodiscard]] iwarp::SendRequest& fill_slot(const core::WorkRequest& request,
                                                iwarp::RequestKind kind, std::uint32_t length);

    // The express lane: requests of a direct connection that are executed and completed by the call
    // that posts them. Meanwhile the thread that posts is the stepper.
    [[nodiscard]] bool express(const core::WorkRequest& request, std::uint32_t length,
                               std::uint32_t rights) override;
    [[nodiscard]] bool enter_lane_for(iwarp::RequestKind kind, std::size_t budget);
    void begin_batch() override;
    void end_batch() noexcept override;
    [[nodiscard]] bool enter_lane(std::size_t budget);
    [[nodiscard]] bool run_in_lane(const core::WorkRequest& request, std::uint32_t length,
                                   std::uint32_t rights);
    [[nodiscard]] bool find_in_lane(const core::WorkRequest& request, std::uint32_t rights,
                                    core::LocalBuffer& out);
    void note_done(const core::WorkRequest& request);
    void deliver_lane();
    // Before something is posted in the ordinary way: what is behind it may not overtake it.
    void close_lane();
    void leave_word();
    [[nodiscard]] bool receive_in_lane(core::Budget budget, bool& is_more);
    // Takes the reference to `mapping` over, if there is one.
    void publish(iwarp::RequestKind kind, const core::MappingRequest& request, std::uint32_t token,
                 Mapping* mapping);
    void do_close() override {
        withdraw();
        end(core::End::closed);
    }

    // ReceiveSupply: from the shared receive queue.
    [[nodiscard]] bool refill() override { return soft_srq_->take(receive_queue_); }
    [[nodiscard]] bool can_refill() const override {
        return !receive_queue_.cursor.is_full() && !soft_srq_->is_empty();
    }

    // What peers name.
    [[nodiscard]] iwarp::RemoteMemory& named_memory() {
        if (faulty_memory_) return *faulty_memory_;
        return memory_;
    }

    // Stepper.
    [[nodiscard]] bool step_and_leave(core::Budget budget);
    [[nodiscard]] bool step_once(unsigned reasons, core::Budget budget);
    // Behind a word that was left.
    void has_left();
    void leave_without_memory();
    void end_without_memory();
    void take_attachment();
    void try_direct();
    void settle_direct(bool has_ended);
    [[nodiscard]] bool ends_by_memory();
    void go_direct();
    [[nodiscard]] Expected<void> sleep_over(const std::shared_ptr<Bell>& bell);
    void look_at_link();
    [[nodiscard]] bool transmit_some(core::Budget budget);
    [[nodiscard]] bool receive_some(core::Budget budget);
    void deliver_completions();
    void note_over();
    void cancel_unconnected();
    void complete(const iwarp::StreamCompletion& done);
    void handle_events();
    void check_hold(Time at);
    void check_relief(Time at);
    void end_stream();
    void stop_watching();
    void count_traffic();
    void update_interest();
    void watch_in_queues(std::uint32_t events);
    void update_deadline();

    const std::shared_ptr<MemoryTable> table_;
    const std::uint64_t domain_;
    const std::shared_ptr<Progress> progress_;
    const std::shared_ptr<StreamTotals> totals_;
    StreamTotals::Part moved_;
    CompletionQueue& soft_receive_cq_;  // held by core::QueuePair
    CompletionQueue& soft_initiator_cq_;
    SharedReceiveQueue* const soft_srq_;  // null: none
    DomainMemory memory_;
    const std::unique_ptr<FaultyMemory> faulty_memory_;  // null: no faults
    iwarp::SendQueue send_queue_;
    iwarp::ReceiveQueue receive_queue_;

    base::StateWord word_;
    // The progress thread left an event to the stepper of that moment, which calls it back at the
    // end of its step.
    mutable std::atomic<bool> is_awaited_{false};
    std::atomic<unsigned> reasons_{0};  // to step: given by any thread, taken by the stepper
    // Reading is paused, or everything is cancelled at once: a new receive wants a step. Always
    // read and modified in one, acq_rel: of do_post_receive() and the stepper the later one sees
    // what the other did before.
    std::atomic<std::uint32_t> receives_need_step_{0};
    // relaxed: set before the connector completes its operation, which orders it for the program
    // that posts.
    std::atomic<std::uint16_t> outbound_read_limit_{0};

    // The hand-over from attach() to the stepper.
    struct Attachment {
        std::unique_ptr<Link> link;
        iwarp::ConnectionConfig config;
        std::weak_ptr<core::QueuePairObserver> observer;
        std::shared_ptr<Meeting> meeting;
    };
    base::Mutex attach_mutex_;
    std::unique_ptr<Attachment> attachment_ NDV_GUARDED_BY(attach_mutex_);

    // Stepper.
    bool is_flushed_ = false;
    std::unique_ptr<Link> link_;
    std::unique_ptr<iwarp::Stream> stream_;
    iwarp::Connection* connection_ = nullptr;  // what stream_ is, while TCP carries it
    direct::Stream* direct_ = nullptr;         // ... while memory does
    std::weak_ptr<core::QueuePairObserver> observer_;
    std::shared_ptr<Meeting> meeting_;  // as long as it is open who carries the stream, and then
    std::shared_ptr<Bell> bell_;
    std::unique_ptr<direct::Reach> reach_;
    std::shared_ptr<QueuePair> self_;  // while a peer has not let go of what ends here
    bool has_link_ended_ = false;      // direct: there is nothing more to hear from it
    bool ends_records_ = false;        // small segments: start each batch at a segment boundary
    bool steps_again_ = false;         // something came while the step was ending
    bool has_no_memory_ = false;       // an allocation failed in a step, which is half done
    bool is_active_ = false;
    Time receive_wait_{};
    bool has_begun_ = false;          // of the initiator there was something, or we are it
    std::uint32_t queue_events_ = 0;  // what the completion queues' sets wait for
    std::optional<Time> hold_until_;
    std::optional<Time> relief_at_;  // waits for a receive of the shared queue
    std::optional<Time> settle_at_;  // memory that ended here is in the hand of a peer
    std::optional<Time> deadline_;
    iwarp::StreamCounters counted_;

    // The poster's, who is the stepper while the lane is open.
    static constexpr std::size_t kLaneRun = 64;  // requests under one hazard and one pin
    struct Lane {
        bool is_batch = false;
        bool has_word = false;
        bool is_open = false;
        bool owes_step = false;    // there is something to do for one
        std::size_t requests = 0;  // since what is held was let go
        std::size_t budget = 0;    // bytes that are left
        // Local memory, pinned for requests that follow each other.
        std::uint32_t token = 0;
        MemoryTable::Entry* pinned = nullptr;
        std::vector<core::Completion> run;
    };
    Lane lane_;
    // The step behind the lane has left something for a large budget. relaxed: the poster's own,
    // which may transmit beside the next one.
    std::atomic<bool> lane_has_rest_{false};

    // Written by the stepper, read by the progress thread, which arms by it.
    std::atomic<std::uint32_t> wanted_{0};
    // Likewise; 0: no receive is held. relaxed: a number that other threads compare; nothing else
    // depends on it.
    std::atomic<std::int64_t> held_since_{0};
    // relaxed: a thread that sees it late asks for a step too many.
    std::atomic<bool> is_direct_{false};
    std::atomic<const char*> transport_{"tcp"};
    std::atomic<bool> reaches_all_{false};
};

}  // namespace ndv::soft

// SPDX-License-Identifier: Apache-2.0
// The step of a soft queue pair. Posting is in queue_pair_post.cpp, what needs no step in
// queue_pair_lane.cpp, where requests and the stream end in queue_pair_end.cpp, how memory takes
// TCP's place in queue_pair_direct.cpp.
#include "providers/soft/queue_pair.hpp"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <new>
#include <thread>
#include <utility>

#include "base/shortage.hpp"

namespace ndv::soft {
namespace {

// Bytes gathered for one sendmsg.
constexpr std::size_t kBatch = 1024 * 1024;
constexpr std::size_t kPieces = 256;

// Receives of a shared queue that one connection may have taken and not yet completed: a step that
// takes more messages goes on in another one.
constexpr std::uint32_t kTakenReceives = 256;

// An initiator that need not speak first gets this long to do so (docs/wire/iwarp.md#start-up: a
// server that speaks first would otherwise wait for ever for a stock siw client).
constexpr Time kHoldTime = std::chrono::milliseconds(100);
constexpr Time kHoldRetry = std::chrono::milliseconds(20);

// How often a peer in another process that has ended memory in hand is looked at.
constexpr Time kSettleTime = std::chrono::milliseconds(1);

// Below this a TCP segment holds few FPDUs and alignment is worth a record mark.
constexpr std::size_t kSmallSegment = 32 * 1024;

}  // namespace

QueuePair::QueuePair(std::shared_ptr<core::ProtectionDomain> pd,
                     std::shared_ptr<CompletionQueue> receive_cq,
                     std::shared_ptr<CompletionQueue> initiator_cq,
                     const core::QueuePairLimits& limits, core::RequestContexts* contexts,
                     std::shared_ptr<MemoryTable> table, std::uint64_t domain,
                     std::shared_ptr<Progress> progress, std::shared_ptr<StreamTotals> totals,
                     std::shared_ptr<SharedReceiveQueue> srq)
    : core::QueuePair(std::move(pd), receive_cq, initiator_cq, limits, contexts),
      table_(std::move(table)),
      domain_(domain),
      progress_(std::move(progress)),
      totals_(std::move(totals)),
      soft_receive_cq_(*receive_cq),
      soft_initiator_cq_(*initiator_cq),
      soft_srq_(srq.get()),
      memory_(*table_, domain, id()),
      faulty_memory_(table_->faults() ? std::make_unique<FaultyMemory>(memory_, table_->faults())
                                      : nullptr),
      send_queue_(limits.initiator_queue_depth, limits.max_initiator_sge, limits.inline_size),
      receive_queue_(soft_srq_ == nullptr ? limits.receive_queue_depth : kTakenReceives,
                     limits.max_receive_sge, 0) {
    set_srq(std::move(srq));
    totals_->join(moved_);
}

QueuePair::~QueuePair() {
    if (is_foreign()) return;
    // No thread steps any more: the last reference is gone. What was posted still ends.
    note_cause(core::Detail::of(core::End::closed));
    try {
        base::with_memory([this] { static_cast<void>(step_once(kFlush, core::Budget::small)); });
    } catch (const std::bad_alloc&) {
        // Callbacks of the last completions are lost; a destructor has no caller to report to.
    }
    while (stream_) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        static_cast<void>(step_once(kDeadline, core::Budget::small));
    }
    totals_->leave(moved_);
}

Expected<void> QueuePair::attach(std::unique_ptr<Link> link, const iwarp::ConnectionConfig& config,
                                 std::weak_ptr<core::QueuePairObserver> observer,
                                 std::shared_ptr<Meeting> meeting) {
    const int fd = link->descriptor();
    outbound_read_limit_.store(config.ord, std::memory_order_relaxed);  // see its declaration
    {
        const base::Lock lock(attach_mutex_);
        attachment_ = std::make_unique<Attachment>(
            Attachment{std::move(link), config, std::move(observer), std::move(meeting)});
    }
    // relaxed: add() below hands it to the progress thread under a mutex.
    wanted_.store(EPOLLIN, std::memory_order_relaxed);
    const auto self = std::static_pointer_cast<QueuePair>(shared_from_this());
    Expected<void> added;
    try {
        added = soft_receive_cq_.attach(self, fd, EPOLLIN);
        if (added && &soft_initiator_cq_ != &soft_receive_cq_) {
            added = soft_initiator_cq_.attach(self, fd, EPOLLIN);
        }
        if (added) added = progress_->add(self, fd);
    } catch (const std::bad_alloc&) {
        added = base::fail_anyhow(Status::insufficient_resources, "out of memory", ENOMEM);
    }
    if (!added) {
        // The cause, where the system gave one, before that which the connector knows.
        core::Detail why;
        why.source = core::Detail::Source::system;
        why.os_error = static_cast<std::uint16_t>(added.error().os_error);
        if (why.os_error != 0) note_cause(why);
        soft_receive_cq_.detach(*this, fd);
        soft_initiator_cq_.detach(*this, fd);
        const base::Lock lock(attach_mutex_);
        attachment_.reset();
        return added;
    }
    step(kAttach | kIo, core::Budget::large);
    return {};
}

void QueuePair::disconnect() {
    note_cause(core::Detail::of(core::End::disconnected));
    set_state(core::QueuePairState::error);  // no new requests; those posted still go out
    step(kDisconnect | kIo, core::Budget::large);
}

void QueuePair::flush() { end(core::End::flushed); }

void QueuePair::end(core::End why) {
    note_cause(core::Detail::of(why));
    step(kFlush, core::Budget::large);
}

bool QueuePair::step(unsigned reasons, core::Budget budget) {
    // release: pairs with the acquire of the exchange below, in whatever thread steps: it sees what
    // was written before the reason was given.
    reasons_.fetch_or(reasons, std::memory_order_acq_rel);
    return word_.enter() && step_and_leave(budget);
}

bool QueuePair::step_and_leave(core::Budget budget) {
    bool is_more = false;
    try {
        do {
            is_more = step_once(reasons_.exchange(0, std::memory_order_acq_rel), budget);
        } while (std::exchange(steps_again_, false) || !word_.leave());
    } catch (const std::bad_alloc&) {
        leave_without_memory();
        throw;  // a caller gets an error, the progress thread pauses
    }
    has_left();
    return is_more;
}

void QueuePair::has_left() {
    // seq_cst: pairs with bell_lease(). Either we see that the progress thread waits, or it sees
    // that the word is idle.
    if (!is_awaited_.load(std::memory_order_seq_cst)) return;
    if (is_awaited_.exchange(false, std::memory_order_acq_rel)) progress_->lease_dropped();
}

void QueuePair::step_for_receive() {
    try {
        step(kReceive, core::Budget::small);
    } catch (const std::bad_alloc&) {
    }
}

// The connection ends in the next step, for which a writable socket wakes the progress thread, or
// the one that waits for a completion meanwhile.
void QueuePair::leave_without_memory() {
    has_no_memory_ = true;
    // release: pairs with wanted().
    wanted_.store(EPOLLIN | EPOLLOUT, std::memory_order_release);
    if (bell_) {
        bell_->ring_self();
    } else if (link_) {
        watch_in_queues(EPOLLIN | EPOLLOUT);
    }
    while (!word_.leave()) {
    }
    progress_->arm(*this);
}

bool QueuePair::step_once(unsigned reasons, core::Budget budget) {
    if (std::exchange(has_no_memory_, false)) end_without_memory();
    if ((reasons & kAttach) != 0) take_attachment();
    if ((reasons & kFlush) != 0) is_flushed_ = true;
    if (!stream_) {
        if (is_flushed_) {
            set_state(core::QueuePairState::error);
            // acq_rel: pairs with do_post_receive().
            receives_need_step_.exchange(1, std::memory_order_acq_rel);
            cancel_unconnected();
        } else {
            // A disconnect that overtook attach(), which asks for a step itself. relaxed: this
            // thread has acquired already what came with the reason.
            reasons_.fetch_or(reasons & kDisconnect, std::memory_order_relaxed);
        }
        return false;
    }
    const Time at = now();
    if (faulty_memory_) [[unlikely]]
        stream_->withhold_receives(table_->faults()->withholds_receives());
    stream_->begin_step(at);
    if (is_flushed_) stream_->handle_flush();
    if ((reasons & kDisconnect) != 0) stream_->handle_disconnect();
    if ((reasons & kDeadline) != 0) check_hold(at);
    if ((reasons & kGiveWay) != 0) {
        const auto since = stream_->held_since();
        if (since && at - *since >= SharedReceiveQueue::kPatience) stream_->give_way();
    }
    if ((reasons & kLink) != 0 && direct_ != nullptr) look_at_link();
    bool is_more = transmit_some(budget);
    if ((reasons & kReceive) != 0) {
        is_more = receive_some(budget) || is_more;
        is_more = transmit_some(budget) || is_more;
    }
    // No pin from here on: the end of a request may end memory, which waits for pins.
    stream_->end_step();
    // The peer is in this side's memory still: what it is posted with stays until it has left.
    const bool has_settled = memory_.has_settled();
    const bool is_kept = !has_settled || (direct_ != nullptr && direct_->is_ending());
    auto self = is_kept ? std::static_pointer_cast<QueuePair>(weak_from_this().lock()) : nullptr;
    if ((self == nullptr) != (self_ == nullptr)) progress_->note_waiting(self != nullptr);
    self_ = std::move(self);
    settle_at_ = has_settled ? std::nullopt : std::optional(at + kSettleTime);
    // A program that polls a cancelled request finds the queue pair in error, and why.
    if (stream_->is_over()) note_over();
    if (has_settled) {
        deliver_completions();
        handle_events();
    }
    if (stream_) {
        count_traffic();
        update_interest();
        if (soft_srq_ != nullptr) check_relief(at);
        update_deadline();
    }
    return is_more;
}

void QueuePair::take_attachment() {
    std::unique_ptr<Attachment> taken;
    {
        const base::Lock lock(attach_mutex_);
        taken = std::move(attachment_);
    }
    if (!taken) return;
    link_ = std::move(taken->link);
    observer_ = std::move(taken->observer);
    iwarp::ConnectionConfig config = taken->config;
    const std::size_t segment = link_->segment_size();
    ends_records_ = segment < kSmallSegment;
    // As siw does: FPDUs follow the segment size, in multiples of eight, within a 16-bit length.
    config.max_fpdu = static_cast<std::uint32_t>(std::min<std::size_t>(segment, 65483) & ~7ULL);
    iwarp::ReceiveSupply* const supply = soft_srq_ == nullptr ? nullptr : this;
    auto made = std::make_unique<iwarp::Connection>(config, send_queue_, receive_queue_,
                                                    named_memory(), supply);
    connection_ = made.get();
    stream_ = std::move(made);
    meeting_ = std::move(taken->meeting);
    receive_wait_ = config.receive_wait;
    has_begun_ = config.is_initiator;
    if (!config.is_initiator && config.rtr == iwarp::RtrKind::none) {
        hold_until_ = now() + kHoldTime;
    }
    if (soft_srq_ != nullptr) soft_srq_->join(*this);
    queue_events_ = EPOLLIN;
    if (meeting_ && config.is_initiator) try_direct();
}

bool QueuePair::transmit_some(core::Budget budget) {
    if (direct_ != nullptr) {
        const bool is_small = budget == core::Budget::small;
        if (is_small && direct_->backlog() > core::kSmallStep) return true;
        return direct_->transmit(step_bytes(budget));
    }
    if (!connection_->wants_write()) return false;
    if (budget == core::Budget::small && connection_->has_large_backlog(core::kSmallStep)) {
        return true;
    }
    const std::size_t limit = step_bytes(budget);
    std::array<iovec, kPieces> pieces;
    std::size_t moved = 0;
    while (moved < limit) {
        const std::size_t count = connection_->poll_transmit(pieces.data(), pieces.size(),
                                                             std::min(kBatch, limit - moved));
        if (count == 0) {
            return false;
        }
        const LinkResult result = link_->write(pieces.data(), count, ends_records_);
        switch (result.kind) {
            case LinkResult::Kind::moved:
                moved += result.size;
                connection_->handle_sent(result.size);
                break;
            case LinkResult::Kind::would_block:
                return false;
            case LinkResult::Kind::end:
            case LinkResult::Kind::error:
                // The peer's Terminate may still wait in the socket: reading finds the reason.
                if (receive_some(core::Budget::large) || connection_->is_over()) return false;
                connection_->handle_link_error(result.os_error);
                return false;
        }
    }
    return connection_->wants_write();
}

bool QueuePair::receive_some(core::Budget budget) {
    if (direct_ != nullptr) {
        return direct_->receive(step_bytes(budget));
    }
    if (!connection_->wants_read()) {
        // A reset shows even so, and would be reported without end.
        if (const int os_error = link_->take_error()) connection_->handle_link_error(os_error);
        return false;
    }
    const std::size_t limit = step_bytes(budget);
    std::array<iovec, 20> pieces;
    std::size_t moved = 0;
    while (moved < limit) {
        const std::size_t count =
            connection_->poll_receive(pieces.data(), pieces.size(), limit - moved);
        if (count == 0) return false;
        std::size_t asked = 0;
        for (std::size_t i = 0; i < count; ++i) asked += pieces[i].iov_len;
        const LinkResult result = link_->read(pieces.data(), count);
        switch (result.kind) {
            case LinkResult::Kind::moved:
                moved += result.size;
                connection_->handle_received(result.size, now());
                // Less than asked: the socket is empty, another call would only say so.
                if (result.size < asked) return false;
                break;
            case LinkResult::Kind::would_block:
                return false;
            case LinkResult::Kind::end:
                connection_->handle_end_of_stream();
                return false;
            case LinkResult::Kind::error:
                connection_->handle_link_error(result.os_error);
                return false;
        }
    }
    return true;
}

void QueuePair::handle_events() {
    const iwarp::StreamEvents events = stream_->take_events();
    const auto observer = observer_.lock();
    // Where the initiator need not speak, an end in order tells as well that it had the reply.
    const bool has_begun = events.first_fpdu || (events.peer_closed && hold_until_);
    if (has_begun && hold_until_) {
        hold_until_.reset();
        connection_->release_hold();
    }
    if (has_begun) has_begun_ = true;
    if (has_begun && meeting_ && direct_ == nullptr && !events.over) {
        settle_direct(events.peer_closed);
        if (direct_ != nullptr) {
            if (observer) observer->on_heard();
            return;
        }
    }
    if (has_begun && observer) observer->on_heard();
    if (events.peer_closed) note_cause(core::Detail::of(core::End::peer_closed));
    if (events.peer_closed && !events.over) {
        // The program has no handler for the disconnect: then completions must show it.
        if (!observer || !observer->on_peer_closed()) {
            stream_->handle_flush();
            deliver_completions();
            static_cast<void>(stream_->take_events());
            end_stream();
            return;
        }
    }
    if (events.drained && !events.over) {
        link_->shut_write();
        if (observer) observer->on_drained();
    }
    if (events.over && !ends_by_memory()) end_stream();
}

void QueuePair::check_hold(Time at) {
    if (!hold_until_ || at < *hold_until_) return;
    // An end in another process that has said hello speaks first, however late.
    if (link_->has_unacknowledged() || (meeting_ && meeting_->is_awaited())) {
        hold_until_ = at + kHoldRetry;
        return;
    }
    // The opening of a peer that has taken it up is on its way, or its end.
    if (meeting_ && !meeting_->take_back()) {
        hold_until_ = at + kHoldRetry;
        return;
    }
    hold_until_.reset();
    meeting_.reset();
    has_begun_ = true;
    connection_->release_hold();
    if (const auto observer = observer_.lock()) observer->on_heard();
}

// A message that waits for a receive of the shared queue asks for one that stands still elsewhere.
void QueuePair::check_relief(Time at) {
    // relaxed: see its declaration.
    held_since_.store(stream_->held_since().value_or(Time{}).count(), std::memory_order_relaxed);
    if (!stream_->is_paused()) {
        relief_at_.reset();
    } else if (!relief_at_ || at >= *relief_at_) {
        if (relief_at_) soft_srq_->relieve(at);
        relief_at_ = at + SharedReceiveQueue::kPatience;
    }
}

std::optional<Time> QueuePair::held_since() const {
    const Time since{held_since_.load(std::memory_order_relaxed)};  // see its declaration
    return since == Time{} ? std::nullopt : std::optional(since);
}

void QueuePair::update_interest() {
    const bool reads = stream_->wants_read();
    std::uint32_t events = 0;
    if (direct_ != nullptr) {
        if (!has_link_ended_) events = EPOLLIN;
    } else {
        // Left over because the socket is full, or because this step has done its share: the
        // thread that waits for the socket goes on.
        events = (reads ? EPOLLIN : 0U) | (stream_->wants_write() ? EPOLLOUT : 0U);
    }
    // Paused reading is resumed by the next receive that is posted, or was posted just now.
    // acq_rel: pairs with do_post_receive().
    receives_need_step_.exchange(reads ? 0 : 1, std::memory_order_acq_rel);
    if (!reads) {
        steps_again_ = steps_again_ || stream_->can_resume();
        if (soft_srq_ != nullptr && !steps_again_ && stream_->is_paused()) {
            steps_again_ = !soft_srq_->wait_for_receive(
                std::static_pointer_cast<QueuePair>(shared_from_this()));
        }
        // relaxed: this thread takes it itself, in its next round.
        if (steps_again_) reasons_.fetch_or(kReceive, std::memory_order_relaxed);
    }
    // release: pairs with wanted().
    const std::uint32_t before = wanted_.exchange(events, std::memory_order_acq_rel);
    if ((events & ~before) != 0) progress_->arm(*this);
    if (direct_ == nullptr) watch_in_queues(events);
}

void QueuePair::watch_in_queues(std::uint32_t events) {
    if (events == queue_events_) return;
    queue_events_ = events;
    const int fd = link_->descriptor();
    soft_receive_cq_.modify(*this, fd, events);
    if (&soft_initiator_cq_ != &soft_receive_cq_) soft_initiator_cq_.modify(*this, fd, events);
}

void QueuePair::count_traffic() {
    const iwarp::StreamCounters& seen = stream_->counters();
    // relaxed: this thread's alone to write; see their declaration.
    const auto add = [](std::atomic<std::uint64_t>& total, std::uint64_t more) {
        if (more != 0) {
            total.store(total.load(std::memory_order_relaxed) + more, std::memory_order_relaxed);
        }
    };
    add(moved_.fpdus_in, seen.fpdus_in - counted_.fpdus_in);
    add(moved_.fpdus_out, seen.fpdus_out - counted_.fpdus_out);
    add(moved_.bytes_in, seen.bytes_in - counted_.bytes_in);
    add(moved_.bytes_out, seen.bytes_out - counted_.bytes_out);
    counted_ = seen;
}

void QueuePair::update_deadline() {
    std::optional<Time> next = stream_->poll_deadline();
    for (const std::optional<Time>& ours : {hold_until_, relief_at_, settle_at_}) {
        if (ours && (!next || *ours < *next)) next = ours;
    }
    if (next == deadline_) return;
    deadline_ = next;
    if (!next) {
        progress_->clear_deadline(*this);
    } else if (const auto self = weak_from_this().lock()) {  // else the destructor steps itself
        progress_->set_deadline(std::static_pointer_cast<QueuePair>(self), *next);
    }
}

void QueuePair::on_ready() {
    // Bounded: two large steps, then others have their turn; level-triggered events come again.
    constexpr unsigned kAll = kIo | kLink;
    if (step(kAll, core::Budget::large)) step(kIo, core::Budget::large);
}

void QueuePair::on_bell() {
    if (step(kIo, core::Budget::large)) step(kIo, core::Budget::large);
}

void QueuePair::on_deadline() {
    // The one that fired is spent; update_deadline() sets the next.
    step(kDeadline, core::Budget::large);
}

// acquire: pairs with update_interest() and leave_without_memory().
std::uint32_t QueuePair::wanted() const { return wanted_.load(std::memory_order_acquire); }

// Of a direct connection's socket only the progress thread hears.
Lease QueuePair::lease(Time at) const {
    return is_direct_.load(std::memory_order_relaxed) ? Lease::none : bell_lease(at);
}

Lease QueuePair::bell_lease(Time at) const {
    const Lease receive = soft_receive_cq_.lease(at);
    const Lease initiator = soft_initiator_cq_.lease(at);
    if (const Lease most = std::max(receive, initiator); most != Lease::none) return most;
    if (word_.is_idle()) return Lease::none;
    // Another thread steps, maybe for longer than a lease lasts: arming now would only spin. A
    // program that polls will soon do so again. Any other thread may have read already, and be at
    // the end of its step: it calls lease_dropped() when it leaves.
    const bool is_polled = soft_receive_cq_.is_polled(at) || soft_initiator_cq_.is_polled(at);
    if (is_polled && !soft_receive_cq_.is_awaited() && !soft_initiator_cq_.is_awaited()) {
        return Lease::fresh;
    }
    // seq_cst: pairs with has_left(), and is_idle() with leave() before it.
    is_awaited_.exchange(true, std::memory_order_seq_cst);
    return word_.is_idle() ? Lease::none : Lease::fresh;
}

}  // namespace ndv::soft

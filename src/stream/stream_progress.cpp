// SPDX-License-Identifier: Apache-2.0
// What moves a stream: signals, completions, messages that are due, and waiting threads.
#include <algorithm>
#include <array>
#include <cerrno>
#include <string>
#include <utility>

#include "stream/stream.hpp"

namespace ndv::stream {
namespace {

constexpr std::size_t kBatch = 32;
// Of one write into a mapping.
constexpr std::uint64_t kLongestWrite = 1 << 20;

}  // namespace

void Stream::signal(std::uint32_t signals) {
    // release: pairs with take_signals().
    if (signals != 0) signals_.fetch_or(signals, std::memory_order_release);
    if (!gate_.request()) return;
    const Entered entered(*this, std::adopt_lock);
    pump();
}

// Leaves the gate, then completes what has ended and calls on_event, without the gate. One thread
// at a time calls on_event, so that events keep their order: it also reports what happens
// meanwhile.
void Stream::leave() {
    while (true) {
        std::vector<Outcomes::Finished> finished;
        std::shared_ptr<const OnEvent> on_event;
        std::uint32_t events = 0;
        while (true) {
            if (waiting_.readiness) {
                waiting_.readiness->set(is_readable_now(), is_writable_now());
            }
            if (waiting_.has_followers()) waiting_.wake(can_lead());
            if (outcomes_.on_event != nullptr && outcomes_.events != 0 &&
                !std::exchange(outcomes_.is_telling, true)) {
                on_event = outcomes_.on_event;
            }
            if (on_event != nullptr) events |= std::exchange(outcomes_.events, 0);
            finished.swap(outcomes_.finished);
            if (gate_.try_leave()) break;
            finished.swap(outcomes_.finished);
            pump();
        }
        for (Outcomes::Finished& one : finished) one.operation->complete(std::move(one.outcome));
        if (on_event == nullptr) return;
        base::with_memory([&] { (*on_event)(events); });
        gate_.enter();
        outcomes_.is_telling = false;
    }
}

void Stream::pump() {
    // A leader sleeps over the queue until it holds something: what comes is left to it.
    if (waiting_.has_leader) return;
    handle_signals(take_signals());
    if (!is_live()) return;
    take_completions();
    if (!is_live()) return;
    serve(core::Budget::large);
    // For what came meanwhile arm() itself requests another round.
    rearm();
}

// The next completion that no thread waits for calls back; arm() itself does, for one that is
// there.
void Stream::rearm() {
    // acquire: pairs with the release in the callback of the completion queue.
    if (is_live() && !is_armed_.exchange(true, std::memory_order_acq_rel)) {
        channel_->cq().arm(core::Notify::any);
    }
}

void Stream::handle_signals(std::uint32_t signals) try {
    if (signals == 0 || is_released_) return;
    // The peer had accepted before it went; the operation that says so is completed a little later.
    if ((signals & kPeerClosed) != 0 && phase() == Phase::connecting && engine_->is_started()) {
        signals |= kEstablished;
    }
    if ((signals & kEstablished) != 0 && !is_releasing_ &&
        (phase() == Phase::connecting || phase() == Phase::accepting)) {
        enter_phase(Phase::connected);
        tell(event::kConnected);
        begin_keepalive();
    }
    if ((signals & kPeerClosed) != 0) {
        // Its last messages have come before.
        if (!is_releasing_) take_completions();
        if (engine_->is_peer_gone()) {
            release_in_order();
        } else if (!is_releasing_) {
            break_down(Status::connection_reset,
                       "the peer is gone: its connection ended before its stream did", ECONNRESET);
        }
    }
    if ((signals & kDisconnected) != 0) release_now();
    if ((signals & kKeepalive) != 0 && is_live()) engine_->request_keepalive();
} catch (const std::bad_alloc&) {
    break_without_memory();
}

// ---- completions ----------------------------------------------------------------------------

void Stream::take_completions() try {
    core::CompletionQueue& cq = channel_->cq();
    std::array<core::Completion, kBatch> batch;
    // Only what is in the ring: a poll that finds nothing would take the connection from the
    // adapter's own thread for a while.
    while (is_live() && !cq.is_empty()) {
        bool needs_large = false;
        const std::size_t count =
            cq.poll(batch.data(), batch.size(), core::Budget::large, needs_large);
        for (std::size_t i = 0; i < count; ++i) {
            batch[i].requests->end();
            if (is_live()) handle_completion(batch[i]);
        }
    }
    // It brings no completion that would say so, and satisfies every arm at once.
    if (is_live() && is_failure(cq.status())) {
        break_down(Status::connection_aborted, "the completion queue of the stream broke",
                   ECONNABORTED);
    }
} catch (const std::bad_alloc&) {
    break_without_memory();
}

void Stream::handle_completion(const core::Completion& done) {
    if (is_releasing_) return;
    if (is_failure(done.status)) {
        break_by(done);
        return;
    }
    if (done.type == core::OperationType::send || done.type == core::OperationType::write) {
        handle_sent();
        return;
    }
    auto word = channel_->take_word(done);
    const std::uint64_t before = engine_->readable();
    const bool was_shut = engine_->is_peer_shut();
    auto handled = word ? engine_->handle_message(*word) : Expected<void>(Unexpected{word.error()});
    if (!handled) {
        break_down(handled.error());
        return;
    }
    if (engine_->readable() != before) tell(event::kReceived);
    if (engine_->is_peer_shut() && !was_shut) tell(event::kPeerShut);
}

void Stream::handle_sent() {
    Sending::Record* const due = sending_.due();
    if (due == nullptr) return;
    // First what may find no memory: what breaks the stream then ends what the record still has.
    if (due->transfer) outcomes_.finish(due->transfer, {});
    if (due->is_end && sending_.end_operation) {
        outcomes_.finished.push_back({sending_.end_operation, {}});
    }
    const bool is_end = due->is_end;
    sending_.end_request(*due);
    tell(event::kSent);
    if (is_end) {
        sending_.end_operation = nullptr;
        if (engine_->is_over()) release_in_order();
    }
}

// ---- what is due ----------------------------------------------------------------------------

void Stream::serve(core::Budget budget) try {
    if (engine_->is_started() && phase() == Phase::connected) {
        if (receiving_.is_shut) receiving_.discard(*engine_);
        receiving_.fill(*engine_, *channel_);
        grow();
        post_control();
        post_staged();
        post_transfers();
        end_if_due();
        if (is_live() && std::exchange(sending_.owes_transmit, false)) {
            // With a small budget a rest may stay behind: the socket's turn comes by itself.
            if (channel_->transmit(budget) && budget == core::Budget::large) {
                while (channel_->transmit(budget)) {
                }
            }
        }
    }
    if (is_live() && engine_->is_peer_gone()) {
        receiving_.fill(*engine_, *channel_);
        release_in_order();
    }
    if (const std::uint64_t backlog = engine_->window(); backlog != told_backlog_) {
        told_backlog_ = backlog;
        tell(event::kBacklog);
    }
} catch (const std::bad_alloc&) {
    break_without_memory();
}

// More memory for the peer to write to, while what it has is full and not consumed.
void Stream::grow() {
    if (!engine_->wants_segment() || engine_->segment_count() >= channel_->max_segments()) return;
    // Without memory the stream goes on with what it has.
    try {
        if (auto segment = channel_->add_segment()) engine_->add_segment(*segment);
    } catch (const std::bad_alloc&) {
    }
}

bool Stream::post(Outgoing& out, const std::shared_ptr<Transfer>& transfer, bool is_end) {
    out.is_signalled = sending_.begin_request(channel_->slots_of(out), transfer, is_end);
    const Status status = channel_->post(out);
    if (!is_failure(status)) return true;
    break_down(
        Status::connection_reset,
        "the connection ended before the stream did (" + std::string(status_meaning(status)) + ")",
        ECONNRESET);
    return false;
}

void Stream::post_control() {
    Control control;
    // A descriptor takes two slots.
    while (is_live() && sending_.has_slots(2) && engine_->poll_control(control)) {
        Outgoing out;
        out.has_write = control.has_write;
        out.has_word = control.has_word;
        out.data = control.bytes.data();
        out.is_inline = true;
        out.target = control.target;
        out.word = control.word;
        const bool is_end = control.has_word && control.word.op == MessageOp::control;
        if (!post(out, nullptr, is_end)) return;
    }
}

void Stream::post_staged() {
    while (is_live() && sending_.has_staged() && sending_.has_slots(2)) {
        const Sending::Piece piece = sending_.next_piece();
        const std::uint32_t most = std::min(piece.length, engine_->sendable());
        if (most == 0) return;
        Outgoing out;
        out.take(engine_->take_chunk(most));
        out.data = piece.data;
        out.token = channel_->staging_token();
        sending_.note_posted(out.target.length);
        if (!post(out, nullptr, false)) return;
    }
}

void Stream::post_transfers() {
    while (is_live() && !sending_.has_staged() && sending_.has_transfers() &&
           sending_.has_slots(2)) {
        const std::shared_ptr<Transfer> transfer = sending_.next_transfer();
        Outgoing out;
        out.data = transfer->data + transfer->done;
        out.token = transfer->token;
        out.is_inline = transfer->region == nullptr;
        if (!take_target(*transfer, out)) return;
        transfer->done += out.target.length;
        const bool is_last = transfer->done == transfer->length;
        if (is_last) sending_.note_transfer_posted();
        if (!post(out, is_last ? transfer : nullptr, false)) return;
    }
}

// Where the next part of it goes; false: nowhere yet.
bool Stream::take_target(Transfer& transfer, Outgoing& out) {
    const std::uint64_t left = transfer.length - transfer.done;
    if (transfer.offset) {
        out.target = engine_->find_mapping(*transfer.offset + transfer.done);
        out.target.length = static_cast<std::uint32_t>(
            std::min<std::uint64_t>({left, out.target.length, kLongestWrite}));
        out.has_write = true;
        out.has_word = false;
        if (out.target.length > 0) return true;
        // It was there when the request was made.
        break_down(Status::connection_aborted,
                   "the peer replaced a mapping while it was written to", ECONNABORTED);
        return false;
    }
    const auto most =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(left, engine_->sendable()));
    if (most == 0) return false;
    out.take(engine_->take_chunk(most));
    return true;
}

void Stream::end_if_due() {
    if (!is_live() || sending_.ending == Sending::Ending::none || sending_.has_staged() ||
        sending_.has_transfers()) {
        return;
    }
    if (sending_.ending == Sending::Ending::disconnect) {
        engine_->disconnect();
    } else {
        engine_->shut_write();
    }
    sending_.is_end_posted = true;
    post_control();
}

// ---- waiting --------------------------------------------------------------------------------

bool Stream::wait_until(const IsReady& is_ready, std::chrono::nanoseconds timeout) {
    const core::Time until = core::now() + timeout;
    std::optional<Follower> follower;
    bool is_in_time = true;
    while (true) {
        {
            const Entered entered(*this);
            if (follower) {
                waiting_.remove(*follower);
                if (follower->is_over()) return true;
                follower.reset();
            }
            if (is_live() && !waiting_.has_leader) {
                take_completions();
                if (is_live()) serve(core::Budget::large);
            }
            if (is_ready()) {
                rearm();
                return true;
            }
            if (!is_in_time) return false;
            if (can_lead()) {
                waiting_.has_leader = true;
            } else {
                follower.emplace(is_ready);
                waiting_.add(*follower);
            }
        }
        if (!follower) return lead(is_ready, until);
        is_in_time = follower->sleep_until(until);
    }
}

// Ends when it is ready, the time is over, or the connection is.
bool Stream::lead(const IsReady& is_ready, core::Time until) {
    while (true) {
        const core::Time left = until - core::now();
        const bool has_any = left > core::Time::zero() && channel_->cq().wait(left);
        const Entered entered(*this);
        waiting_.has_leader = false;
        handle_signals(take_signals());
        if (is_live()) take_completions();
        if (is_live()) serve(core::Budget::large);
        const bool is_over = is_ready();
        if (is_over || !has_any || !can_lead()) {
            rearm();
            return is_over;
        }
        // Still before the gate is left: the followers sleep on.
        waiting_.has_leader = true;
    }
}

bool Stream::wait_readable(std::chrono::nanoseconds timeout) {
    return wait_until([this] { return is_readable_now(); }, timeout);
}

bool Stream::wait_writable(std::chrono::nanoseconds timeout) {
    return wait_until([this] { return is_writable_now(); }, timeout);
}

bool Stream::wait_connected(std::chrono::nanoseconds timeout) {
    return wait_until(
        [this] {
            const Phase now = phase();
            return now == Phase::connected || now == Phase::over;
        },
        timeout);
}

bool Stream::wait_done(const Transfer& transfer, std::chrono::nanoseconds timeout) {
    return wait_until([&transfer] { return transfer.is_finished; }, timeout);
}

Expected<std::shared_ptr<Readiness>> Stream::descriptor() {
    const Entered entered(*this);
    if (!waiting_.readiness) {
        auto made = Readiness::create();
        if (!made) return Unexpected{made.error()};
        waiting_.readiness = std::make_shared<Readiness>(std::move(*made));
    }
    return waiting_.readiness;
}

void Stream::set_on_event(OnEvent function) {
    const Entered entered(*this);
    outcomes_.on_event = function ? std::make_shared<const OnEvent>(std::move(function)) : nullptr;
}

}  // namespace ndv::stream

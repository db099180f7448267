// SPDX-License-Identifier: Apache-2.0
// The life of a direct stream: what begins and ends a step, and how the connection ends.
#include "direct/stream.hpp"

#include <chrono>
#include <utility>

#include "direct/fence.hpp"

namespace ndv::direct {
namespace {

// Why a side ended the connection: layer, type and code of the Terminate that it would have sent,
// or that the peer would have sent had it seen the request that was refused here.
constexpr std::uint32_t kSaid = 1U << 31U;
constexpr std::uint32_t kRefusedForPeer = 1U << 30U;

// A peer that is stopped with memory of this side in hand is looked at so often.
constexpr iwarp::Time kQuietTime = std::chrono::milliseconds(1);
// And one that has closed, and may be dying, while something waits for it.
constexpr iwarp::Time kGoneTime = std::chrono::milliseconds(10);

std::uint32_t verdict_of(const iwarp::ErrorCode& code, std::uint32_t flags) {
    return kSaid | flags | static_cast<std::uint32_t>(code.layer) << 16U |
           static_cast<std::uint32_t>(code.error_type) << 8U | code.code;
}

iwarp::ErrorCode code_of(std::uint32_t verdict) {
    return {static_cast<std::uint8_t>(verdict >> 16U & 0xFU),
            static_cast<std::uint8_t>(verdict >> 8U), static_cast<std::uint8_t>(verdict)};
}

}  // namespace

Stream::Stream(Line& line, Bells& bells, iwarp::SendQueue& send_queue,
               iwarp::ReceiveQueue& receive_queue, iwarp::RemoteMemory& own, Reach& reach,
               iwarp::ReceiveSupply* supply, Time receive_wait)
    : iwarp::Stream(send_queue, receive_queue),
      line_(line),
      mine_(line.mine()),
      theirs_(line.theirs()),
      bells_(bells),
      own_(own),
      reach_(reach),
      supply_(supply),
      receive_wait_(receive_wait),
      request_next_(send_queue.cursor.head_position()),
      receive_next_(receive_queue.cursor.head_position()) {}

void Stream::begin_step(Time now) {
    now_ = now;
    if (is_ending()) settle_end();
    if (is_paused_) {
        if (has_receive()) {
            is_paused_ = false;
        } else if (now >= pause_deadline_) {
            is_paused_ = false;
            fail(iwarp::error::kUntaggedNoBuffer);
        }
    }
    publish_receives();
}

void Stream::end_step() {
    std::uint32_t wants = 0;
    if (wants_read()) wants |= asleep::kForMessages;
    if (wants_write()) wants |= asleep::kUnfinished;
    if (is_open_ && (is_blocked_ || answer_.is_blocked)) wants |= asleep::kForRoom;
    if (line_.want(wants, seen_slots_)) bells_.ring_self();
}

void Stream::retire(const iwarp::StreamCompletion& completion) {
    if (completion.is_receive) {
        if (completion.position == receive_next_) ++receive_next_;
        receive_queue_.cursor.retire();
        return;
    }
    if (completion.position == request_next_) ++request_next_;
    send_queue_.cursor.retire();
}

iwarp::StreamEvents Stream::take_events() { return std::exchange(events_, {}); }

std::optional<iwarp::Time> Stream::poll_deadline() const {
    if (is_ending()) return now_ + kQuietTime;
    if (peer_has_closed_ && is_blocked_) return now_ + kGoneTime;
    return is_paused_ ? std::optional(pause_deadline_) : std::nullopt;
}

bool Stream::wants_write() {
    if (!is_open_) return false;
    return (answer_.left > 0 && !answer_.is_blocked) ||
           (!is_blocked_ && request_next_ != send_queue_.cursor.published());
}

bool Stream::can_resume() const {
    return is_paused_ && !is_withheld_ &&
           (receive_queue_.cursor.published() != receive_next_ ||
            (supply_ != nullptr && supply_->can_refill()));
}

std::optional<iwarp::Time> Stream::held_since() const {
    const bool is_held = is_open_ && receive_queue_.cursor.published() != receive_next_;
    return supply_ != nullptr && is_held ? std::optional(held_since_) : std::nullopt;
}

// ---- how it ends ----------------------------------------------------------------------------

void Stream::handle_link_error(int os_error) {
    if (!is_open_) return;
    // The oldest request is the one that the dead peer failed.
    const std::uint32_t head = send_queue_.cursor.head_position();
    if (head != send_queue_.cursor.published()) blame(head, Status::io_timeout);
    end({iwarp::Cause::Source::system, {}, os_error});
}

void Stream::handle_disconnect() {
    is_disconnecting_ = true;
    check_drained();
}

// The peer has shut its half, and all that it sent before was taken.
void Stream::handle_end() {
    if (is_in_message_) {
        end({iwarp::Cause::Source::local, iwarp::error::kLlpClosed, 0});
    } else if (!peer_has_closed_) {
        peer_has_closed_ = true;
        events_.peer_closed = true;
        check_drained();
    }
}

void Stream::handle_verdict(std::uint32_t verdict) {
    if ((verdict & kRefusedForPeer) != 0) {
        end({iwarp::Cause::Source::local, code_of(verdict), 0});
        return;
    }
    // As a Terminate: about the oldest request that is not done, unless it is one of DDP, which
    // refuses what has payload.
    const iwarp::ErrorCode code = code_of(verdict);
    const bool is_ddp = code.layer == static_cast<std::uint8_t>(iwarp::Layer::ddp);
    if (request_next_ != send_queue_.cursor.published() &&
        !(is_ddp && iwarp::is_answered(send_queue_[request_next_].kind))) {
        blame(request_next_, Status::remote_resources);
    }
    end({iwarp::Cause::Source::peer, code, 0});
}

// What a peer did that it may not.
void Stream::fail(const iwarp::ErrorCode& code) {
    if (!is_open_) return;
    // release: pairs with the acquire in receive(): the messages before it.
    mine_.verdict.store(verdict_of(code, 0), std::memory_order_release);
    end({iwarp::Cause::Source::local, code, 0});
}

// A request that the peer would refuse: its end is the one that a Terminate would bring.
Stream::Turn Stream::refuse(const iwarp::ErrorCode& code) {
    blame(request_next_, Status::remote_resources);
    mine_.verdict.store(verdict_of(code, kRefusedForPeer), std::memory_order_release);
    end({iwarp::Cause::Source::peer, code, 0});
    return Turn::ended;
}

// The peer is closing: its end is on its way by TCP, and what would have gone out before it is lost
// on the way, as packets would be.
Stream::Turn Stream::gone() {
    seen_slots_ = theirs_.consumed_slots.load(std::memory_order_relaxed);
    return peer_has_closed_ ? Turn::done : Turn::blocked;
}

void Stream::end(const iwarp::Cause& cause) {
    cause_ = cause;
    go_over();
}

void Stream::go_over() {
    if (!is_open_) return;
    is_open_ = false;
    is_paused_ = false;
    let_go();
    line_.close();
    wake(asleep::kForMessages);
    settle_end();
}

// What was posted ends when the peer, which may be stopped, has nothing of it in hand.
void Stream::settle_end() {
    is_quiet_ = line_.is_quiet() || !bells_.lives_peer();
    events_.over = is_quiet_;
}

void Stream::blame(std::uint32_t position, Status status) {
    if (blamed_) return;
    blamed_ = position;
    blamed_status_ = status;
}

void Stream::check_drained() {
    if (!is_disconnecting_ || !is_open_ || has_drained_) return;
    events_.drained = has_drained_ =
        request_next_ == send_queue_.cursor.published() && answer_.left == 0;
}

// ---- the peer's memory, and its sleep -------------------------------------------------------

// False: the peer ends what this side would touch.
bool Stream::touch(std::uint64_t what) {
    if (touched_ == what) return true;
    mine_.hazard.exchange(what, std::memory_order_seq_cst);
    touched_ = what;
    touched_token_ = 0;
    if (theirs_.closing.load(std::memory_order_seq_cst) == 0) return true;
    let_go();
    return false;
}

bool Stream::touch_token(std::uint32_t token) {
    if (touched_ != 0 && token == touched_token_) return true;
    if (!touch(reach_.hazard(token))) return false;
    touched_token_ = token;
    return true;
}

void Stream::let_go() {
    if (std::exchange(touched_, 0) == 0) return;
    // release: pairs with the waits in Line::is_quiet(), and of the peer's table: the copies are
    // done.
    mine_.hazard.store(0, std::memory_order_release);
}

void Stream::wake(std::uint32_t for_what) {
    // Pairs with the fence in Line::doze().
    full_fence();
    if ((theirs_.asleep.load(std::memory_order_relaxed) & for_what) == 0) return;
    if (theirs_.asleep.exchange(0, std::memory_order_relaxed) != 0) bells_.ring_peer();
}

}  // namespace ndv::direct

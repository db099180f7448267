// SPDX-License-Identifier: Apache-2.0
// How the two ends of a connection come to share memory, and what TCP says from then on.
#include <cerrno>
#include <utility>

#include "providers/soft/queue_pair.hpp"

namespace ndv::soft {

// Active. The opening of the stream is all that goes out by TCP: with it the peer is to look who
// carries the rest.
void QueuePair::try_direct() {
    is_active_ = true;
    if (!meeting_->take_up(reach())) {
        meeting_.reset();
        return;
    }
    connection_->begin_step(now());
    iovec piece{};
    const std::size_t count = connection_->poll_transmit(&piece, 1, 1);
    const LinkResult sent = link_->write(&piece, count, false);
    // The first bytes on a fresh socket, which has room for them: otherwise the peer is gone.
    if (sent.kind != LinkResult::Kind::moved || sent.size != piece.iov_len) {
        connection_->handle_link_error(sent.os_error != 0 ? sent.os_error : EPIPE);
        return;
    }
    connection_->handle_sent(sent.size);
    go_direct();
}

// Passive, before it sends the first byte of its own.
void QueuePair::settle_direct(bool has_ended) {
    if (meeting_->take_back()) {
        meeting_.reset();
        return;
    }
    go_direct();
    if (has_ended) {
        has_link_ended_ = true;
        stream_->handle_end_of_stream();
    }
    // relaxed: this thread takes it itself, in its next round.
    reasons_.fetch_or(kIo | kLink, std::memory_order_relaxed);
    steps_again_ = true;
}

// Passive, at the end of a stream whose opening did not come. A peer that has taken the meeting up
// may be in this side's memory already, and stand still there: true, it ends as a direct one does.
bool QueuePair::ends_by_memory() {
    if (!meeting_ || direct_ != nullptr || is_active_ || meeting_->take_back()) return false;
    const iwarp::Cause cause = stream_->cause();
    go_direct();
    if (direct_ == nullptr) return false;
    hold_until_.reset();
    if (cause.source != iwarp::Cause::Source::none) {
        stream_->handle_link_error(cause.os_error != 0 ? cause.os_error : EPROTO);
    }
    stream_->handle_flush();
    // relaxed: this thread takes it itself, in its next round.
    reasons_.fetch_or(kIo, std::memory_order_relaxed);
    steps_again_ = true;
    return true;
}

// From here on the two ends share memory, and TCP says no more than that the peer has ended. Until
// all is there that takes memory, the connection can still end as one over TCP.
void QueuePair::go_direct() {
    const auto self = std::static_pointer_cast<QueuePair>(shared_from_this());
    auto bell = std::make_shared<Bell>(meeting_, is_active_, self);
    reach_ = meeting_->make_reach(is_active_);
    if (!reach_) {
        // It goes on by memory, and has not said where: nothing more can come of it.
        bell->line().close();
        stream_->handle_link_error(EPROTO);
        return;
    }
    lane_.run.reserve(kLaneRun);
    iwarp::ReceiveSupply* const supply = soft_srq_ == nullptr ? nullptr : this;
    auto made = std::make_unique<direct::Stream>(bell->line(), *bell, send_queue_, receive_queue_,
                                                 named_memory(), *reach_, supply, receive_wait_);
    if (auto moved = sleep_over(bell); !moved) {
        made->handle_flush();  // the peer may have begun
        stream_->handle_link_error(moved.error().os_error);
        return;
    }
    bell_ = std::move(bell);
    direct_ = made.get();
    stream_ = std::move(made);
    connection_ = nullptr;
    counted_ = {};
    is_direct_.store(true, std::memory_order_relaxed);
    transport_.store(meeting_->transport(), std::memory_order_relaxed);
    reaches_all_.store(meeting_->reaches_all(), std::memory_order_relaxed);
    // The socket is the progress thread's alone now.
    progress_->arm(*this);
    stream_->begin_step(now());
}

// Whatever thread sleeps over this connection does so over its bell.
Expected<void> QueuePair::sleep_over(const std::shared_ptr<Bell>& bell) {
    const int fd = link_->descriptor();
    Expected<void> added = progress_->add(bell, bell->descriptor());
    if (added) added = soft_receive_cq_.replace(*this, fd, bell);
    if (added && &soft_initiator_cq_ != &soft_receive_cq_) {
        added = soft_initiator_cq_.replace(*this, fd, bell);
    }
    if (!added) progress_->remove(*bell, bell->descriptor());
    return added;
}

// The peer's end, by the socket that carries nothing else.
void QueuePair::look_at_link() {
    // A reset shows also behind an end, and would be reported without end.
    LinkResult found{LinkResult::Kind::error, 0, link_->take_error()};
    if (found.os_error == 0) {
        if (has_link_ended_) return;
        found = link_->peek();
    }
    switch (found.kind) {
        case LinkResult::Kind::would_block:
            return;
        case LinkResult::Kind::end:
            stream_->handle_end_of_stream();
            break;
        case LinkResult::Kind::error:
            stream_->handle_link_error(found.os_error);
            break;
        case LinkResult::Kind::moved:
            stream_->handle_link_error(EPROTO);
            break;
    }
    has_link_ended_ = true;
}

}  // namespace ndv::soft

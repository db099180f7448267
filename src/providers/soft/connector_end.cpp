// SPDX-License-Identifier: Apache-2.0
// How a connector ends: disconnect, abandon, close, deadlines, and what the stream tells it.
#include <sys/socket.h>

#include <string>
#include <utility>

#include "providers/soft/connector.hpp"

namespace ndv::soft {

void Connector::on_deadline() {
    std::shared_ptr<QueuePair> dead;
    std::shared_ptr<core::Operation> done;
    Expected<void> outcome;
    {
        const base::Lock lock(mutex_);
        if (state_ == State::connecting) {
            finish_connect(fail(Status::io_timeout, "connect to " + peer_->text() + " timed out",
                                "is the address right, and does the peer accept?"));
            return;
        }
        if (state_ == State::completing) {
            on_disconnect_ = nullptr;
            parts_->counters.connect_failures.fetch_add(1, std::memory_order_relaxed);
            outcome = fail(Status::io_timeout,
                           "accept: " + peer_->text() + " did not complete the connection in time",
                           "nothing is left to accept; wait for the next request");
        } else if (state_ == State::disconnecting) {
            outcome = fail(Status::io_timeout, "disconnect: the peer did not answer in time",
                           "the connection is closed all the same");
        } else {
            return;  // it has been answered meanwhile
        }
        state_ = State::disconnected;
        dead = qp_;
        done = std::exchange(operation_, nullptr);  // the flush would take it for a success
    }
    if (dead) dead->flush();
    if (done) done->complete(std::move(outcome));
}

core::Pending Connector::start_disconnect(std::chrono::nanoseconds timeout) {
    std::shared_ptr<QueuePair> qp;
    std::shared_ptr<core::Operation> pending;
    {
        const base::Lock lock(mutex_);
        if (is_closed() || state_ != State::connected) {
            return core::wrong_connector_state("disconnect", state_,
                                               "only a connected connector disconnects");
        }
        state_ = State::disconnecting;
        on_disconnect_ = nullptr;  // a local disconnect is never indicated locally
        operation_ = pending = std::make_shared<core::Operation>();
        qp = qp_;
    }
    parts_->progress->set_deadline(std::static_pointer_cast<Connector>(shared_from_this()),
                                   now() + timeout);
    qp->disconnect();
    return pending;
}

void Connector::abandon() {
    std::shared_ptr<QueuePair> dead;
    std::shared_ptr<core::Operation> done;
    {
        const base::Lock lock(mutex_);
        if (state_ == State::connecting) {
            finish_connect(fail(Status::cancelled, "connect was abandoned"));
            return;
        }
        if (state_ == State::completing) {
            state_ = State::disconnected;
            dead = qp_;
        }
        done = std::exchange(operation_, nullptr);  // the flush would take it for a success
    }
    if (dead) dead->flush();
    if (done) done->complete(fail(Status::cancelled, "the operation was abandoned"));
}

void Connector::do_close() {
    std::shared_ptr<QueuePair> dead;
    std::shared_ptr<core::Operation> done;
    {
        const base::Lock lock(mutex_);
        if (state_ == State::connecting) {
            finish_connect(fail(Status::cancelled, "connect: the connector was closed"));
        } else if (state_ == State::incoming && !peer_is_gone()) {
            static_cast<void>(handshake_->reject({}));
            const auto out = handshake_->poll_transmit();
            const iovec piece{const_cast<std::byte*>(out.data()), out.size()};
            static_cast<void>(link_->write(&piece, 1, true));
        } else if (state_ == State::accepted) {
            refuse_answer();
        }
        const bool has_stream = state_ == State::completing || state_ == State::connected ||
                                state_ == State::disconnecting;
        state_ = State::disconnected;
        on_disconnect_ = nullptr;
        endpoint_.reset();
        drop_link();
        dead = std::exchange(qp_, nullptr);
        if (dead && !has_stream) {
            dead->unreserve();
            dead.reset();
        }
        parts_->progress->clear_deadline(*this);
        done = std::exchange(operation_, nullptr);  // the flush would take it for a success
    }
    if (dead) dead->flush();
    if (done) done->complete(fail(Status::cancelled, "the connector was closed"));
}

void Connector::complete_operation(Expected<void> outcome) {
    std::shared_ptr<core::Operation> done;
    {
        const base::Lock lock(mutex_);
        done = std::exchange(operation_, nullptr);
    }
    if (done) done->complete(std::move(outcome));
}

void Connector::on_established() {
    std::shared_ptr<core::Operation> done;
    {
        const base::Lock lock(mutex_);
        if (state_ != State::completing) return;
        state_ = State::connected;
        is_active_ = true;
        qp_->mark_connected();
        parts_->progress->clear_deadline(*this);
        done = std::exchange(operation_, nullptr);
    }
    parts_->counters.accepts.fetch_add(1, std::memory_order_relaxed);
    parts_->counters.active_connections.fetch_add(1, std::memory_order_relaxed);
    if (done) done->complete({});
}

bool Connector::on_peer_closed() {
    OnDisconnect tell;
    std::shared_ptr<QueuePair> finished;
    std::shared_ptr<core::Operation> done;
    bool was_active = false;
    {
        const base::Lock lock(mutex_);
        peer_closed_ = true;
        if (state_ == State::completing) return false;
        if (state_ == State::disconnecting) {
            if (!is_drained_) return true;  // our own FIN is still to come
            state_ = State::disconnected;
            done = std::exchange(operation_, nullptr);
            finished = qp_;
            was_active = std::exchange(is_active_, false);
        } else if (state_ == State::connected) {
            if (!on_disconnect_) return false;
            tell = std::exchange(on_disconnect_, nullptr);
        }
    }
    // Before whoever waits hears of it; the flush may end on another thread.
    if (was_active) parts_->counters.active_connections.fetch_sub(1, std::memory_order_relaxed);
    if (finished) finished->flush();  // the implicit flush of a disconnect
    if (done) {
        parts_->progress->clear_deadline(*this);
        done->complete({});
    }
    if (tell) tell();
    return true;
}

void Connector::on_drained() {
    bool is_over = false;
    {
        const base::Lock lock(mutex_);
        is_drained_ = true;
        is_over = peer_closed_;
    }
    if (is_over) static_cast<void>(on_peer_closed());
}

void Connector::on_over(const iwarp::Cause& cause) {
    OnDisconnect tell;
    std::shared_ptr<core::Operation> done;
    State before = State::idle;
    bool was_active = false;
    {
        const base::Lock lock(mutex_);
        before = std::exchange(state_, State::disconnected);
        was_active = std::exchange(is_active_, false);
        tell = std::exchange(on_disconnect_, nullptr);
        done = std::exchange(operation_, nullptr);
    }
    if (was_active) parts_->counters.active_connections.fetch_sub(1, std::memory_order_relaxed);
    if (cause.source != iwarp::Cause::Source::none) {
        auto& counter =
            was_active ? parts_->counters.connection_errors : parts_->counters.connect_failures;
        counter.fetch_add(1, std::memory_order_relaxed);
    }
    parts_->progress->clear_deadline(*this);
    if (done) {
        if (before == State::completing) {
            done->complete(fail(Status::connection_aborted,
                                "accept: the peer gave up before the connection was complete", {},
                                cause.os_error));
        } else if (cause.source == iwarp::Cause::Source::none) {
            done->complete({});
        } else {
            done->complete(fail(Status::connection_reset,
                                "disconnect: the connection broke before the peer answered", {},
                                cause.os_error));
        }
    }
    if (tell && cause.source != iwarp::Cause::Source::none) tell();
}

}  // namespace ndv::soft

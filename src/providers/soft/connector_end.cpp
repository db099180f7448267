// SPDX-License-Identifier: Apache-2.0
// How a connector ends: disconnect, abandon, close, deadlines, and what the stream tells it.
#include <new>
#include <utility>

#include "base/shortage.hpp"
#include "core/connection_log.hpp"
#include "providers/soft/connector.hpp"

namespace ndv::soft {

void Connector::Aftermath::run() {
    // Without memory the queue pair's next step ends it; those who wait learn of the end in any
    // case.
    try {
        if (to_end) base::with_memory([this] { to_end->end(why); });
    } catch (const std::bad_alloc&) {
    }
    if (operation) operation->complete(std::move(outcome));
    if (tell) tell();
}

void Connector::become_connected(const char* how, std::atomic<std::uint64_t>& counter) {
    state_ = State::connected;
    is_active_ = true;
    counter.fetch_add(1, std::memory_order_relaxed);
    parts_->counters.active_connections.fetch_add(1, std::memory_order_relaxed);
    core::log_connection(how, local_, peer_);
}

void Connector::leave_connected(bool is_failure) {
    if (!std::exchange(is_active_, false)) return;
    parts_->counters.active_connections.fetch_sub(1, std::memory_order_relaxed);
    if (is_failure) parts_->counters.connection_errors.fetch_add(1, std::memory_order_relaxed);
    core::log_connection(is_failure ? "broken" : "disconnected", local_, peer_);
}

void Connector::end(Expected<void> outcome, core::End why, Aftermath& after) {
    parts_->progress->clear_deadline(*this);
    leave_connected(false);
    state_ = State::disconnected;
    on_disconnect_ = nullptr;
    after.operation = std::exchange(operation_, nullptr);  // the flush would take it for a success
    after.outcome = std::move(outcome);
    after.to_end = qp_;
    after.why = why;
}

void Connector::on_deadline() {
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        if (state_ == State::connecting) {
            finish_connect(fail(Status::io_timeout, "connect to " + peer_->text() + " timed out",
                                "is the address right, and does the peer accept?"),
                           after);
        } else if (state_ == State::completing) {
            parts_->counters.connect_failures.fetch_add(1, std::memory_order_relaxed);
            end(fail(Status::io_timeout,
                     "accept: " + peer_->text() + " did not complete the connection in time",
                     "nothing is left to accept; wait for the next request"),
                core::End::timed_out, after);
        } else if (state_ == State::disconnecting) {
            end(fail(Status::io_timeout, "disconnect: the peer did not answer in time",
                     "the connection is closed all the same"),
                core::End::disconnected, after);
        }
    }
    after.run();
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
        pending = std::make_shared<core::Operation>();
        parts_->progress->set_deadline(std::static_pointer_cast<Connector>(shared_from_this()),
                                       now() + timeout);
        operation_ = pending;
        state_ = State::disconnecting;
        on_disconnect_ = nullptr;  // a local disconnect is never indicated locally
        qp = qp_;
    }
    qp->disconnect();
    return pending;
}

void Connector::abandon() {
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        if (state_ == State::connecting) {
            finish_connect(fail(Status::cancelled, "connect was abandoned"), after);
        } else if (state_ == State::completing) {
            end(fail(Status::cancelled, "accept was abandoned"), core::End::closed, after);
        } else {
            after.operation = std::exchange(operation_, nullptr);
            after.outcome = fail(Status::cancelled, "the operation was abandoned");
        }
    }
    after.run();
}

void Connector::do_close() {
    std::shared_ptr<QueuePair> dropped;  // without the mutex
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        if (state_ == State::connecting) {
            finish_connect(
                base::fail_anyhow(Status::cancelled, "connect: the connector was closed"), after);
        } else if (state_ == State::incoming && link_) {
            parts_->progress->remove(*this, link_->descriptor());
            if (is_void()) {
                link_.reset();
            } else {
                answer_reject({});
            }
        } else if (state_ == State::accepted) {
            refuse_answer();
        }
        const bool has_stream = state_ == State::completing || state_ == State::connected ||
                                state_ == State::disconnecting;
        drop_link();
        endpoint_.reset();
        if (has_stream) {
            end(base::fail_anyhow(Status::cancelled, "the connector was closed"), core::End::closed,
                after);
        } else if (state_ != State::disconnected) {
            state_ = State::disconnected;
            if (qp_) qp_->unreserve();
        }
        dropped = std::exchange(qp_, nullptr);
    }
    after.run();
}

void Connector::on_established() {
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        if (state_ != State::completing) return;
        parts_->progress->clear_deadline(*this);
        become_connected("accepted", parts_->counters.accepts);
        qp_->mark_connected();
        after.operation = std::exchange(operation_, nullptr);
    }
    after.run();
}

bool Connector::on_peer_closed() {
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        peer_closed_ = true;
        if (state_ == State::completing) return false;
        if (state_ == State::disconnecting) {
            if (!is_drained_) return true;            // our own FIN is still to come
            end({}, core::End::disconnected, after);  // the implicit flush of a disconnect
        } else if (state_ == State::connected) {
            if (!on_disconnect_) {
                // The queue pair flushes: a disconnect that comes meanwhile is too late for it.
                state_ = State::disconnected;
                return false;
            }
            after.tell = std::exchange(on_disconnect_, nullptr);
        }
    }
    after.run();
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
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        const State before = std::exchange(state_, State::disconnected);
        const core::Detail why = qp_ ? qp_->cause() : core::Detail::of(core::End::closed);
        const bool is_ours = why.is(core::End::flushed) || why.is(core::End::closed);
        const bool is_failure =
            cause.source != iwarp::Cause::Source::none || why.is(core::End::overrun);
        parts_->progress->clear_deadline(*this);
        leave_connected(is_failure);
        after.operation = std::exchange(operation_, nullptr);
        if (before == State::completing) {
            on_disconnect_ = nullptr;
            if (!is_ours) {
                parts_->counters.connect_failures.fetch_add(1, std::memory_order_relaxed);
            }
            after.outcome = base::fail_anyhow(
                Status::connection_aborted,
                is_ours ? "accept: the queue pair was flushed"
                        : "accept: the peer gave up before the connection was complete",
                is_ours ? 0 : cause.os_error);
        } else if (is_failure) {
            after.outcome = base::fail_anyhow(
                Status::connection_reset,
                "disconnect: the connection broke before the peer answered", cause.os_error);
        } else if (before == State::disconnecting) {
            after.outcome = base::fail_anyhow(
                Status::cancelled,
                "disconnect: the queue pair was flushed before the peer answered");
        }
        // Whatever ended it, a flush included, but for this side's own close.
        if (!why.is(core::End::closed)) after.tell = std::move(on_disconnect_);
        on_disconnect_ = nullptr;
    }
    after.run();
}

}  // namespace ndv::soft

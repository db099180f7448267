// SPDX-License-Identifier: Apache-2.0
// What rdma_cm, the queue pair and the clock tell a connector, and how it ends.
#include <cerrno>
#include <cstdlib>
#include <string>
#include <utility>

#include "base/log.hpp"
#include "base/shortage.hpp"
#include "core/connection_log.hpp"
#include "providers/verbs/connector.hpp"

namespace ndv::verbs {

void Connector::on_cm_event(const rdma_cm_event& event, std::shared_ptr<CmId>) {
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        // Of an attempt that was given up.
        if (!id_ || id_->get() != event.id) return;
        switch (event.event) {
            case RDMA_CM_EVENT_ADDR_RESOLVED:
                if (state_ != State::connecting) break;
                if (!id_->is_on(*parts_->device)) {
                    fail_connect(
                        fail(Status::invalid_address,
                             "connect to " + peer_->text() +
                                 ": the way there does not lead through " + parts_->device->name(),
                             "give a local address of the device, or open the device that has "
                             "the route"),
                        after);
                } else if (rdma_resolve_route(id_->get(), milliseconds_of(parameters_.timeout)) !=
                           0) {
                    fail_connect(fail(core::status_of(errno),
                                      "connect to " + peer_->text() + ": no route", {}, errno),
                                 after);
                }
                break;
            case RDMA_CM_EVENT_ROUTE_RESOLVED:
                if (state_ != State::connecting) break;
                local_ = id_->local_address();
                if (auto asked = ask_peer(); !asked) {
                    fail_connect(Unexpected{asked.error()}, after);
                }
                break;
            case RDMA_CM_EVENT_CONNECT_RESPONSE:
                handle_answer(event, after);
                break;
            case RDMA_CM_EVENT_ESTABLISHED:
                // iWARP has no third message, and so no answer that is not the end of it.
                if (state_ == State::connecting)
                    handle_answer(event, after);
                else
                    handle_established(after);
                break;
            case RDMA_CM_EVENT_ADDR_ERROR:
            case RDMA_CM_EVENT_ROUTE_ERROR:
            case RDMA_CM_EVENT_CONNECT_ERROR:
            case RDMA_CM_EVENT_UNREACHABLE:
            case RDMA_CM_EVENT_REJECTED:
                handle_refusal(event, after);
                break;
            case RDMA_CM_EVENT_DISCONNECTED:
                handle_disconnected(false, after);
                break;
            case RDMA_CM_EVENT_DEVICE_REMOVAL:
                if (state_ == State::connecting) {
                    fail_connect(fail(Status::device_removed,
                                      "connect to " + peer_->text() + ": the device " +
                                          parts_->device->name() + " was removed"),
                                 after);
                } else {
                    handle_disconnected(true, after);
                }
                break;
            case RDMA_CM_EVENT_CONNECT_REQUEST:
            case RDMA_CM_EVENT_MULTICAST_JOIN:
            case RDMA_CM_EVENT_MULTICAST_ERROR:
            case RDMA_CM_EVENT_ADDR_CHANGE:
            case RDMA_CM_EVENT_TIMEWAIT_EXIT:
                break;
            default:  // of a later version of rdma-core
                base::log(base::LogLevel::info, "verbs",
                          "rdma_cm reports event " + std::to_string(event.event) +
                              ", which is not known here and is ignored");
                break;
        }
    }
    after.run();
}

// The peer has accepted: NDK's Connect is done.
void Connector::handle_answer(const rdma_cm_event& event, Aftermath& after) {
    if (state_ != State::connecting) return;
    parts_->progress->clear_deadline(*this);
    const rdma_conn_param& answer = event.param.conn;
    const auto* const bytes = static_cast<const std::byte*>(answer.private_data);
    // InfiniBand's answer states what the peer allows, the kernel's iWARP stack what became of
    // ours.
    const bool is_iwarp = parts_->device->is_iwarp();
    const std::uint32_t inbound = is_iwarp ? answer.initiator_depth : answer.responder_resources;
    const std::uint32_t outbound = is_iwarp ? answer.responder_resources : answer.initiator_depth;
    data_ = core::ConnectionData{std::min(parameters_.inbound_read_limit, inbound),
                                 std::min(parameters_.outbound_read_limit, outbound),
                                 {}};
    if (bytes != nullptr) data_->private_data.assign(bytes, bytes + answer.private_data_len);
    qp_->attach(std::static_pointer_cast<Connector>(shared_from_this()),
                data_->outbound_read_limit);
    state_ = State::accepted;
    after.operation = std::exchange(operation_, nullptr);
}

void Connector::handle_refusal(const rdma_cm_event& event, Aftermath& after) {
    int os_error = event.status < 0 ? -event.status : 0;
    if (state_ == State::connecting) {
        const std::string peer = peer_->text();
        if (event.event == RDMA_CM_EVENT_REJECTED) {
            os_error = ECONNREFUSED;  // siw says ECONNRESET, InfiniBand has reasons of its own
            // The peer's data stays readable; a refusal by the system has none.
            const auto* const bytes = static_cast<const std::byte*>(event.param.conn.private_data);
            data_ = core::ConnectionData{};
            if (bytes != nullptr) {
                data_->private_data.assign(bytes, bytes + event.param.conn.private_data_len);
            }
            fail_connect(
                fail(Status::connection_refused, "connect: " + peer + " rejected the request",
                     "is the listener running? connection_data holds the peer's private "
                     "data, if it sent some",
                     os_error),
                after);
            return;
        }
        Status status = core::status_of(os_error);
        if (os_error == ECONNRESET) {
            status = Status::connection_refused;
            os_error = ECONNREFUSED;
        }
        if (event.event == RDMA_CM_EVENT_ADDR_ERROR && os_error == ENODEV) {
            status = Status::invalid_address;
        }
        fail_connect(
            fail(status, "connect to " + peer + " failed: " + std::string(status_meaning(status)),
                 {}, os_error),
            after);
        return;
    }
    // The active side gave up, or rejected our acceptance.
    peer_is_gone_ = true;
    if (state_ == State::incoming) withdraw(after);
    if (state_ != State::completing) return;
    state_ = State::disconnected;
    on_disconnect_ = nullptr;
    parts_->progress->clear_deadline(*this);
    parts_->counters.connect_failures.fetch_add(1, std::memory_order_relaxed);
    after.operation = std::exchange(operation_, nullptr);
    after.outcome = base::fail_anyhow(
        event.event == RDMA_CM_EVENT_UNREACHABLE ? Status::io_timeout : Status::connection_aborted,
        "accept: the peer gave up before the connection was complete", os_error);
    after.to_end = std::exchange(qp_, nullptr);
    after.why = core::End::not_made;
}

// Passive: the peer has taken its request back.
void Connector::withdraw(Aftermath& after) {
    parts_->counters.connect_failures.fetch_add(1, std::memory_order_relaxed);
    after.tell = note_withdrawn();
}

// Passive: the active side has completed the connection.
void Connector::handle_established(Aftermath& after) {
    if (state_ != State::completing) return;
    parts_->progress->clear_deadline(*this);
    state_ = State::connected;
    become_connected();
    parts_->counters.accepts.fetch_add(1, std::memory_order_relaxed);
    after.operation = std::exchange(operation_, nullptr);
}

void Connector::handle_disconnected(bool is_removal, Aftermath& after) {
    peer_is_gone_ = true;
    if (state_ == State::incoming) {
        withdraw(after);
    } else if (state_ == State::completing) {
        state_ = State::disconnected;
        on_disconnect_ = nullptr;
        parts_->progress->clear_deadline(*this);
        parts_->counters.connect_failures.fetch_add(1, std::memory_order_relaxed);
        after.operation = std::exchange(operation_, nullptr);
        after.outcome =
            base::fail_anyhow(Status::connection_aborted,
                              "accept: the peer gave up before the connection was complete");
        after.to_end = std::exchange(qp_, nullptr);
        after.why = core::End::not_made;
    } else if (state_ == State::disconnecting) {
        if (is_removal) {
            finish_disconnect(
                base::fail_anyhow(Status::device_removed, "disconnect: the device was removed"),
                after);
        } else if (has_left_) {
            finish_disconnect({}, after);
        }
    } else if (state_ == State::connected) {
        // Some devices tell the end that this side's own flush or close makes.
        const core::Detail why = qp_->cause();
        const bool is_ours = why.is(core::End::flushed) || why.is(core::End::closed);
        if (why.is(core::End::closed)) on_disconnect_ = nullptr;
        // A device whose queue pair is in error did not see an end in order.
        const bool is_broken = is_removal || (!is_ours && qp_->is_hardware_in_error());
        after.tell = std::exchange(on_disconnect_, nullptr);
        qp_->note_peer_left();
        // Posted receives stay for an end in order that somebody is told of. On iWARP they are
        // gone: the device has flushed them.
        if (!after.tell || is_broken || parts_->device->is_iwarp()) after.to_end = qp_;
        after.why = is_broken ? core::End::lost : core::End::peer_closed;
        if (!after.tell) {
            // Nobody will answer the peer's disconnect: this does.
            static_cast<void>(rdma_disconnect(id_->get()));
            has_left_ = true;
        }
        if (!after.tell || is_broken) {
            state_ = State::disconnected;
            leave_connected(is_broken);
        }
    }
}

void Connector::fail_connect(Unexpected error, Aftermath& after) {
    parts_->progress->clear_deadline(*this);
    parts_->counters.connect_failures.fetch_add(1, std::memory_order_relaxed);
    // NDK: a failed attempt leaves connector and queue pair as they were; the rdma_cm_id is spent.
    state_ = State::idle;
    endpoint_.reset();
    after.id = std::move(id_);
    after.to_unreserve = std::exchange(qp_, nullptr);
    after.operation = std::exchange(operation_, nullptr);
    after.outcome = std::move(error);
}

void Connector::become_connected() {
    qp_->mark_connected();
    is_active_ = true;
    parts_->counters.active_connections.fetch_add(1, std::memory_order_relaxed);
    core::log_connection("connected", local_, peer_);
}

void Connector::leave_connected(bool is_failure) {
    if (!std::exchange(is_active_, false)) return;
    parts_->counters.active_connections.fetch_sub(1, std::memory_order_relaxed);
    if (is_failure) parts_->counters.connection_errors.fetch_add(1, std::memory_order_relaxed);
    core::log_connection(is_failure ? "broken" : "disconnected", local_, peer_);
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

void Connector::on_drained() {
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        if (state_ != State::disconnecting || has_left_) return;
        has_left_ = true;
        static_cast<void>(rdma_disconnect(id_->get()));
        if (peer_is_gone_) finish_disconnect({}, after);
    }
    after.run();
}

void Connector::on_broken() {
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        // The peer does not see that this side is broken unless it is told.
        if (id_) static_cast<void>(rdma_disconnect(id_->get()));
        if (state_ == State::connected) {
            state_ = State::disconnected;
            leave_connected(true);
            after.tell = std::exchange(on_disconnect_, nullptr);
        } else if (state_ == State::disconnecting) {
            leave_connected(true);
            finish_disconnect(
                base::fail_anyhow(Status::connection_reset,
                                  "disconnect: the connection broke before the peer answered"),
                after);
        }
    }
    after.run();
}

void Connector::on_flushed() {
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        if (state_ == State::idle || state_ == State::connecting || state_ == State::incoming)
            return;
        if (id_ && !std::exchange(has_left_, true)) {
            static_cast<void>(rdma_disconnect(id_->get()));
        }
        if (state_ == State::disconnecting) {
            finish_disconnect(
                base::fail_anyhow(
                    Status::cancelled,
                    "disconnect: the queue pair was flushed before the peer answered"),
                after);
        } else {
            if (state_ == State::completing) {
                parts_->progress->clear_deadline(*this);
                after.operation = std::exchange(operation_, nullptr);
                after.outcome = base::fail_anyhow(Status::connection_aborted,
                                                  "accept: the queue pair was flushed");
            }
            // A flush is told, this side's own close is not.
            if (state_ == State::connected && qp_ && qp_->cause().is(core::End::flushed)) {
                after.tell = std::move(on_disconnect_);
            }
            state_ = State::disconnected;
            leave_connected(false);
            on_disconnect_ = nullptr;
        }
    }
    after.run();
}

void Connector::on_heard() {
    const base::Lock lock(mutex_);
    if (state_ == State::completing) {
        static_cast<void>(rdma_notify(id_->get(), IBV_EVENT_COMM_EST));
    }
}

void Connector::finish_disconnect(Expected<void> outcome, Aftermath& after) {
    state_ = State::disconnected;
    leave_connected(false);
    parts_->progress->clear_deadline(*this);
    after.operation = std::exchange(operation_, nullptr);
    after.outcome = std::move(outcome);
    after.to_end = qp_;  // the implicit flush of a disconnect
    after.why = core::End::disconnected;
}

void Connector::on_deadline() {
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        if (state_ == State::connecting) {
            fail_connect(fail(Status::io_timeout, "connect to " + peer_->text() + " timed out",
                              "is the address right, and does the peer accept?"),
                         after);
        } else if (state_ == State::completing) {
            state_ = State::disconnected;
            on_disconnect_ = nullptr;
            parts_->counters.connect_failures.fetch_add(1, std::memory_order_relaxed);
            after.operation = std::exchange(operation_, nullptr);
            after.outcome = base::fail_anyhow(
                Status::io_timeout, "accept: the peer did not complete the connection in time");
            after.to_end = std::exchange(qp_, nullptr);
            after.why = core::End::timed_out;
            after.id = std::move(id_);
        } else if (state_ == State::disconnecting) {
            if (!std::exchange(has_left_, true)) static_cast<void>(rdma_disconnect(id_->get()));
            finish_disconnect(
                fail(Status::io_timeout, "disconnect: the peer did not answer in time",
                     "the connection is closed all the same"),
                after);
        }
    }
    after.run();
}

void Connector::abandon() {
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        if (state_ == State::connecting) {
            fail_connect(fail(Status::cancelled, "connect was abandoned"), after);
        } else {
            if (state_ == State::completing) {
                state_ = State::disconnected;
                on_disconnect_ = nullptr;
                parts_->progress->clear_deadline(*this);
                after.to_end = std::exchange(qp_, nullptr);
                after.id = std::move(id_);
            }
            after.operation = std::exchange(operation_, nullptr);
            after.outcome = fail(Status::cancelled, "the operation was abandoned");
        }
    }
    after.run();
}

void Connector::do_close() {
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        const bool has_connection = state_ == State::completing || state_ == State::connected ||
                                    state_ == State::disconnecting;
        if (state_ == State::connecting) {
            fail_connect(base::fail_anyhow(Status::cancelled, "connect: the connector was closed"),
                         after);
        } else if (state_ == State::incoming && !peer_is_gone_) {
            static_cast<void>(rdma_reject(id_->get(), nullptr, 0));
        } else if (id_ && (has_connection || state_ == State::accepted) && !has_left_) {
            static_cast<void>(rdma_disconnect(id_->get()));
        }
        state_ = State::disconnected;
        leave_connected(false);
        on_disconnect_ = nullptr;
        parts_->progress->clear_deadline(*this);
        claim_.reset();
        endpoint_.reset();
        if (id_) after.id = std::move(id_);
        if (qp_) (has_connection ? after.to_end : after.to_unreserve) = std::exchange(qp_, nullptr);
        if (operation_) {
            after.operation = std::exchange(operation_, nullptr);
            after.outcome = base::fail_anyhow(Status::cancelled, "the connector was closed");
        }
    }
    after.run();
}

}  // namespace ndv::verbs

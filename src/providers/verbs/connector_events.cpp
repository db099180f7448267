// SPDX-License-Identifier: Apache-2.0
// What rdma_cm and the queue pair tell a verbs connector.
#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include "base/log.hpp"
#include "base/shortage.hpp"
#include "providers/verbs/connector.hpp"

namespace ndv::verbs {

using core::Input;

void Connector::on_cm_event(const rdma_cm_event& event, std::shared_ptr<CmId>) {
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        // Of an attempt that was given up.
        if (!id_ || id_->get() != event.id) return;
        switch (event.event) {
            case RDMA_CM_EVENT_ADDR_RESOLVED:
                if (state_ != State::connecting) break;
                if (auto chosen = choose_route(); !chosen) {
                    apply(Input::failed, after, std::move(chosen));
                }
                break;
            case RDMA_CM_EVENT_ROUTE_RESOLVED:
                if (state_ != State::connecting) break;
                local_ = id_->local_address();
                if (auto asked = ask_peer(); !asked) {
                    apply(Input::failed, after, std::move(asked));
                }
                break;
            case RDMA_CM_EVENT_CONNECT_RESPONSE:
            case RDMA_CM_EVENT_ESTABLISHED:
                // iWARP has no third message, and so no answer that is not the end of it.
                if (state_ == State::connecting) {
                    handle_answer(event.param.conn, after);
                } else if (event.event == RDMA_CM_EVENT_ESTABLISHED) {
                    apply(Input::established, after);
                }
                break;
            case RDMA_CM_EVENT_ADDR_ERROR:
            case RDMA_CM_EVENT_ROUTE_ERROR:
            case RDMA_CM_EVENT_CONNECT_ERROR:
            case RDMA_CM_EVENT_UNREACHABLE:
            case RDMA_CM_EVENT_REJECTED:
                handle_refusal(event, after);
                break;
            case RDMA_CM_EVENT_DISCONNECTED:
                handle_disconnected(after);
                break;
            case RDMA_CM_EVENT_DEVICE_REMOVAL:
                handle_removal(after);
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
void Connector::handle_answer(const rdma_conn_param& answer, Aftermath& after) {
    // InfiniBand's answer states what the peer allows, the kernel's iWARP stack what became of
    // ours.
    const bool is_iwarp = parts_->device->is_iwarp();
    const std::uint32_t inbound = is_iwarp ? answer.initiator_depth : answer.responder_resources;
    const std::uint32_t outbound = is_iwarp ? answer.responder_resources : answer.initiator_depth;
    data_ = core::ConnectionData{std::min(parameters_.inbound_read_limit, inbound),
                                 std::min(parameters_.outbound_read_limit, outbound),
                                 private_data_of(answer)};
    queue_pair().attach(std::static_pointer_cast<Connector>(shared_from_this()),
                        data_->outbound_read_limit);
    apply(Input::answered, after);
}

void Connector::handle_refusal(const rdma_cm_event& event, Aftermath& after) {
    int os_error = event.status < 0 ? -event.status : 0;
    if (state_ != State::connecting) {
        // The active side gave up, or rejected our acceptance.
        Expected<void> outcome;
        if (event.event == RDMA_CM_EVENT_UNREACHABLE) {
            outcome = base::fail_anyhow(
                Status::io_timeout, "accept: the peer gave up before the connection was complete",
                os_error);
        }
        if (state_ == State::completing) apply(Input::gave_up, after, outcome, os_error);
        note_peer_left(after);
        return;
    }
    const std::string peer = peer_->text();
    if (event.event == RDMA_CM_EVENT_REJECTED) {
        os_error = ECONNREFUSED;  // siw says ECONNRESET, InfiniBand has reasons of its own
        // The peer's data stays readable; a refusal by the system has none.
        data_ = core::ConnectionData{0, 0, private_data_of(event.param.conn)};
        apply(Input::failed, after,
              fail(Status::connection_refused, "connect: " + peer + " rejected the request",
                   "is the listener running? connection_data holds the peer's private data, if it "
                   "sent some",
                   os_error));
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
    apply(Input::failed, after,
          fail(status, "connect to " + peer + " failed: " + std::string(status_meaning(status)), {},
               os_error));
}

// Before the connection: an answer, or a request, comes to nothing.
void Connector::note_peer_left(Aftermath& after) {
    has_peer_left_ = true;
    if (state_ == State::incoming) note_withdrawn(after);
}

void Connector::handle_removal(Aftermath& after) {
    const std::string what = "the device " + parts_->device->name() + " was removed";
    if (state_ == State::connecting) {
        apply(Input::failed, after,
              fail(Status::device_removed, "connect to " + peer_->text() + ": " + what));
        return;
    }
    if (state_ == State::connected) {
        queue_pair().note_peer_left();
        // This side's own close, which is not reported.
        if (queue_pair().cause().is(core::End::closed)) apply(Input::queue_pair_closed, after);
    }
    // Of an operation under way: there is one in `disconnecting` and `completing` alone.
    apply(Input::broken, after, fail(Status::device_removed, what));
    note_peer_left(after);
}

void Connector::handle_disconnected(Aftermath& after) {
    if (state_ == State::completing) apply(Input::gave_up, after);
    if (state_ == State::disconnecting) static_cast<void>(note_peer_closed(after));
    if (state_ != State::connected) {
        note_peer_left(after);
        return;
    }
    QueuePair& qp = queue_pair();
    qp.note_peer_left();
    // Some devices tell the end that this side's own flush or close makes.
    const core::Detail why = qp.cause();
    if (why.is(core::End::closed)) {
        apply(Input::queue_pair_closed, after);
    } else if (why.is(core::End::flushed)) {
        apply(Input::flushed, after);
    } else if (qp.is_hardware_in_error()) {  // it did not see an end in order
        apply(Input::broken, after);
    } else if (note_peer_closed(after) && parts_->device->is_iwarp()) {
        // Posted receives stay for an end in order that is heard of. On iWARP they are gone: the
        // device has flushed them.
        after.to_flush = qp_;
        after.why = core::End::peer_closed;
    }
    has_peer_left_ = true;
}

void Connector::on_over(bool is_failure, int) {
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        // A flush is reported to the program, this side's own close is not.
        const bool is_flush = qp_ && qp_->cause().is(core::End::flushed);
        apply(is_failure ? Input::broken
              : is_flush ? Input::flushed
                         : Input::queue_pair_closed,
              after);
    }
    after.run();
}

void Connector::on_heard() {
    const base::Lock lock(mutex_);
    if (state_ == State::completing && id_) {
        static_cast<void>(rdma_notify(id_->get(), IBV_EVENT_COMM_EST));
    }
}

}  // namespace ndv::verbs

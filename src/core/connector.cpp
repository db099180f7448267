// SPDX-License-Identifier: Apache-2.0
// Calls of a connector, their words, and the effects of its steps.
#include "core/connector.hpp"

#include <algorithm>
#include <cerrno>
#include <new>
#include <string>
#include <utility>

#include "base/log.hpp"
#include "base/shortage.hpp"
#include "core/adapter.hpp"
#include "core/queue_pair.hpp"

namespace ndv::core {
namespace {

void count(std::atomic<std::uint64_t>& counter) { counter.fetch_add(1, std::memory_order_relaxed); }

void log_connection(const char* what, const std::optional<SocketAddress>& local,
                    const std::optional<SocketAddress>& peer) {
    if (!base::is_logged(base::LogLevel::debug)) return;
    const auto text = [](const auto& address) { return address ? address->text() : "?"; };
    try {
        base::log(base::LogLevel::debug, "connection",
                  std::string(what) + ": " + text(local) + " with " + text(peer));
    } catch (const std::bad_alloc&) {
        // In the middle of a change of state: rather a line less.
    }
}

struct Call {
    const char* name;
    const char* hint;  // for a state that does not know it
};

Call call_of(Input input) {
    if (input == Input::connect) {
        return {"connect", "a connector makes one connection: create another"};
    }
    if (input == Input::complete) return {"complete_connect", "call it once, after connect()"};
    if (input == Input::accept) return {"accept", "accept a connector from Listener, once"};
    if (input == Input::reject) return {"reject", "reject a request, or an answer to connect()"};
    return {"disconnect", "only a connected connector disconnects"};
}

Expected<void> check_private_data(const char* call, std::size_t size, std::uint32_t most) {
    if (size <= most) return {};
    return fail(Status::invalid_buffer_size,
                std::string(call) + "private_data has " + std::to_string(size) +
                    " bytes; at most " + std::to_string(most) + " fit",
                "see adapter.info");
}

}  // namespace

void Connector::Aftermath::run() {
    // Without memory the next step of the queue pair ends it; the waiting learn of the end in any
    // case.
    try {
        if (to_flush) base::with_memory([this] { to_flush->end(why); });
        if (to_give_back) to_give_back->unreserve();
    } catch (const std::bad_alloc&) {
    }
    dropped.reset();
    if (operation) operation->complete(std::move(outcome));
    if (notify) notify();
}

std::map<std::string, std::uint64_t> ConnectionCounters::read() const {
    constexpr auto kOrder = std::memory_order_relaxed;
    return {
        {"connect", connects.load(kOrder)},
        {"accept", accepts.load(kOrder)},
        {"connect_failure", connect_failures.load(kOrder)},
        {"connection_error", connection_errors.load(kOrder)},
        {"active_connection", active_connections.load(kOrder)},
    };
}

// ---- checks ---------------------------------------------------------------------------------

Expected<void> Connector::check_call(Input input) const {
    const Call call = call_of(input);
    if (is_closed()) return closed(call.name, "connector");
    if (step(state_, input)) return {};
    return fail(Status::connection_invalid,
                std::string(call.name) + ": the connector is " + connector_state_name(state_),
                call.hint);
}

// One queue pair, one connector, one connection; the checks that connect and accept share.
Expected<void> Connector::claim(Input input, const std::shared_ptr<QueuePair>& qp,
                                ConnectParameters& parameters) {
    if (auto allowed = check_call(input); !allowed) return allowed;
    // NDK: capped in silence.
    parameters.inbound_read_limit =
        std::min(parameters.inbound_read_limit, info_.max_inbound_read_limit);
    parameters.outbound_read_limit =
        std::min(parameters.outbound_read_limit, info_.max_outbound_read_limit);
    const std::uint32_t most_data =
        input == Input::accept ? info_.max_callee_data : info_.max_caller_data;
    if (auto fits = check_private_data("", parameters.private_data.size(), most_data); !fits) {
        return fits;
    }
    if (auto can = do_check(parameters); !can) return can;
    if (qp->is_closed()) return fail(Status::file_forced_closed, "the queue pair is closed");
    const char* const remedy = "a queue pair lives for one connection: create another";
    if (qp->state() == QueuePairState::error) {
        return fail(Status::connection_active,
                    "the queue pair was flushed or has had its connection", remedy);
    }
    if (!qp->reserve()) {
        return fail(Status::connection_active, "the queue pair is connected or connecting", remedy);
    }
    qp_ = qp;
    return {};
}

// ---- calls ----------------------------------------------------------------------------------

std::shared_ptr<Member> Connector::self() {
    return std::static_pointer_cast<Connector>(shared_from_this());
}

void Connector::set_deadline(std::chrono::nanoseconds timeout) {
    const Time until = now() + timeout;
    progress_.set_deadline(self(), until);
    deadline_ = until;
}

// The progress thread may come with a deadline that it took before the call ended in time, when the
// next call has begun: that one has its own.
void Connector::on_deadline() {
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        if (now() >= deadline_) apply(Input::deadline, after);
    }
    after.run();
}

Expected<void> Connector::begin(Input input, const ConnectParameters& parameters) {
    const bool is_accept = input == Input::accept;
    try {
        if (has_peer_left_) {  // before connect none has
            return fail(Status::connection_aborted, "accept: " + peer_->text() + " gave up",
                        "nothing is left to accept; wait for the next request");
        }
        // What takes memory comes before an answer, which cannot be taken back.
        set_deadline(parameters.timeout);
        return is_accept ? do_accept(parameters) : do_connect(parameters);
    } catch (const std::bad_alloc&) {
        return base::fail_anyhow(Status::insufficient_resources,
                                 is_accept ? "accept: out of memory" : "connect: out of memory",
                                 ENOMEM);
    }
}

Pending Connector::start_connect(std::shared_ptr<QueuePair> qp, ConnectParameters parameters) {
    auto pending = std::make_shared<Operation>();
    Expected<void> begun;
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        if (auto claimed = claim(Input::connect, qp, parameters); !claimed) {
            return Unexpected{claimed.error()};
        }
        peer_ = parameters.peer;
        data_.reset();
        has_peer_left_ = false;
        apply(Input::connect, after);
        begun = begin(Input::connect, parameters);
        if (begun) {
            operation_ = pending;
        } else {
            apply(Input::failed, after);  // of no operation: the call itself fails
        }
    }
    after.run();
    if (!begun) return Unexpected{begun.error()};
    return pending;
}

Pending Connector::start_complete_connect(OnDisconnect on_disconnect) {
    auto pending = std::make_shared<Operation>();
    Expected<void> ready;
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        if (auto allowed = check_call(Input::complete); !allowed)
            return Unexpected{allowed.error()};
        const bool is_flushed = qp_->state() == QueuePairState::error;
        if (is_flushed || has_peer_left_) {
            ready = fail(Status::connection_aborted,
                         is_flushed ? "complete_connect: the queue pair was flushed"
                                    : "complete_connect: the peer gave up",
                         "connect again, with another connector and queue pair");
        } else {
            ready = do_complete();
        }
        if (ready) on_disconnect_ = std::move(on_disconnect);
        apply(ready ? Input::complete : is_flushed ? Input::flushed : Input::failed, after);
    }
    after.run();
    if (!ready) return Unexpected{ready.error()};
    auto opened = open();
    if (!opened) handle(Input::failed, opened);
    pending->complete(std::move(opened));
    return pending;
}

Expected<void> Connector::open() {
    try {
        return do_open();
    } catch (const std::bad_alloc&) {
        return base::fail_anyhow(Status::insufficient_resources, "the stream: out of memory",
                                 ENOMEM);
    }
}

Pending Connector::start_accept(std::shared_ptr<QueuePair> qp, ConnectParameters parameters,
                                OnDisconnect on_disconnect) {
    auto pending = std::make_shared<Operation>();
    Expected<void> accepted;
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        if (auto claimed = claim(Input::accept, qp, parameters); !claimed) {
            return Unexpected{claimed.error()};
        }
        accepted = begin(Input::accept, parameters);
        if (accepted) {
            on_disconnect_ = std::move(on_disconnect);
            operation_ = pending;
            apply(Input::accept, after);
        } else {
            note_withdrawn(after);
            after.notify = nullptr;  // the error tells it
            apply(Input::failed, after);
        }
    }
    after.run();
    if (!accepted) return Unexpected{accepted.error()};
    if (auto opened = open(); !opened) handle(Input::failed, std::move(opened));
    return pending;
}

Expected<void> Connector::reject(std::vector<std::byte> private_data) {
    if (auto fits = check_private_data("reject: ", private_data.size(), info_.max_callee_data);
        !fits) {
        return fits;
    }
    bool is_heard = false;
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        if (auto allowed = check_call(Input::reject); !allowed) return allowed;
        is_heard = !has_peer_left_ && do_goodbye(state_, private_data);
        if (!is_heard && state_ == ConnectorState::incoming) {
            note_withdrawn(after);
            after.notify = nullptr;  // the error tells it
        }
        apply(Input::reject, after);
    }
    after.run();
    if (!is_heard) return fail(Status::connection_aborted, "reject: the peer had given up");
    return {};
}

Pending Connector::start_disconnect(std::chrono::nanoseconds timeout) {
    auto pending = std::make_shared<Operation>();
    std::shared_ptr<QueuePair> qp;
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        if (auto allowed = check_call(Input::disconnect); !allowed)
            return Unexpected{allowed.error()};
        set_deadline(timeout);
        operation_ = pending;
        apply(Input::disconnect, after);
        qp = qp_;
    }
    qp->disconnect();
    return pending;
}

void Connector::do_close() {
    std::shared_ptr<QueuePair> qp;  // goes without the mutex, like what was held
    std::shared_ptr<void> held;
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        apply(Input::close, after);
        qp = std::exchange(qp_, nullptr);
        held = std::exchange(held_address_, nullptr);
    }
    after.run();
}

void Connector::hold(std::shared_ptr<void> address) {
    const base::Lock lock(mutex_);
    held_address_ = std::move(address);
}

// ---- steps ----------------------------------------------------------------------------------

void Connector::handle(Input input, Expected<void> outcome, int os_error) {
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        apply(input, after, std::move(outcome), os_error);
    }
    after.run();
}

void Connector::apply(Input input, Aftermath& after, Expected<void> outcome, int os_error) {
    const std::optional<Step> found = step(state_, input);
    if (!found) return;
    const ConnectorState before = std::exchange(state_, found->next);
    const Effects& effects = found->effects;
    if (effects.has(Effect::clear)) progress_.clear_deadline(*this);
    if (effects.has(Effect::finish) && operation_) {
        after.operation = std::exchange(operation_, nullptr);
        after.outcome = outcome ? outcome_of(before, input, os_error) : std::move(outcome);
    }
    if (effects.has(Effect::count_connect)) count(counters_.connects);
    if (effects.has(Effect::count_accept)) count(counters_.accepts);
    if (effects.has(Effect::count_failure)) count(counters_.connect_failures);
    if (effects.has(Effect::count_error)) count(counters_.connection_errors);
    if (effects.has(Effect::enter)) {
        qp_->mark_connected();
        counters_.active_connections.fetch_add(1, std::memory_order_relaxed);
        log_connection(input == Input::complete ? "connected" : "accepted", local_, peer_);
    }
    if (effects.has(Effect::leave)) {
        counters_.active_connections.fetch_sub(1, std::memory_order_relaxed);
        log_connection(effects.has(Effect::count_error) ? "broken" : "disconnected", local_, peer_);
    }
    if (effects.has(Effect::notify)) after.notify = std::exchange(on_disconnect_, nullptr);
    if (effects.has(Effect::forget)) on_disconnect_ = nullptr;
    if (effects.has(Effect::goodbye)) say_goodbye(before);
    if (effects.has(Effect::flush)) {
        after.to_flush = qp_;
        after.why = found->why;
    }
    if (effects.has(Effect::give_back)) after.to_give_back = std::exchange(qp_, nullptr);
    if (effects.has(Effect::let_go)) {
        if (auto dropped = do_let_go()) after.dropped = std::move(dropped);
        // Of a listener's it is kept until close().
        if (state_ == ConnectorState::idle) held_address_.reset();
    }
}

// How the operation of the state `before` ends, unless the provider knows more.
Expected<void> Connector::outcome_of(ConnectorState before, Input input, int os_error) const {
    const bool is_accept = before == ConnectorState::completing;
    const bool is_disconnect = before == ConnectorState::disconnecting;
    const bool is_flush = input == Input::flushed || input == Input::queue_pair_closed;
    const bool is_stopped = input == Input::abandon || input == Input::close;
    const bool is_late = input == Input::deadline;
    if (input == Input::answered || input == Input::established || input == Input::both_closed) {
        return {};
    }
    Status status = Status::connection_aborted;
    if (is_stopped || (is_flush && !is_accept)) status = Status::cancelled;
    if (is_late) status = Status::io_timeout;
    if (is_disconnect && input == Input::broken) status = Status::connection_reset;
    try {
        std::string what = is_disconnect ? "disconnect" : is_accept ? "accept" : "connect";
        const char* hint = "";
        if (is_stopped) {
            what += input == Input::abandon ? " was abandoned" : ": the connector was closed";
        } else if (is_flush) {
            what += ": the queue pair was flushed";
            if (is_disconnect) what += " before the peer answered";
        } else if (is_late && is_disconnect) {
            what += ": the peer did not answer in time";
            hint = "the connection is closed all the same";
        } else if (is_late && is_accept) {
            what += ": " + peer_->text() + " did not complete the connection in time";
            hint = "nothing is left to accept; wait for the next request";
        } else if (is_late) {
            what += " to " + peer_->text() + " timed out";
            hint = "is the address right, and does the peer accept?";
        } else if (status == Status::connection_reset) {
            what += ": the connection broke before the peer answered";
        } else {
            what += ": the peer gave up before the connection was complete";
        }
        return fail(status, std::move(what), hint,
                    is_stopped || is_late || is_flush ? 0 : os_error);
    } catch (const std::bad_alloc&) {
        return base::fail_anyhow(status, "out of memory", os_error);
    }
}

void Connector::say_goodbye(ConnectorState before) {
    if (std::exchange(has_left_, true)) return;
    const bool is_answer = before == ConnectorState::incoming || before == ConnectorState::accepted;
    if (is_answer && has_peer_left_) return;
    static_cast<void>(do_goodbye(before, {}));
}

bool Connector::note_peer_closed(Aftermath& after) {
    has_peer_left_ = true;
    if (state_ == ConnectorState::completing) return false;
    // Where this side has not, its own end is still to come.
    if (state_ == ConnectorState::disconnecting && has_left_) apply(Input::both_closed, after);
    if (state_ != ConnectorState::connected) return true;
    const bool is_heard = on_disconnect_ != nullptr;
    apply(is_heard ? Input::peer_closed : Input::peer_closed_unheard, after);
    return is_heard;
}

void Connector::note_drained() {
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        if (state_ != ConnectorState::disconnecting) return;
        say_goodbye(state_);
        if (has_peer_left_) apply(Input::both_closed, after);
    }
    after.run();
}

void Connector::note_withdrawn(Aftermath& after) {
    if (std::exchange(is_withdrawn_, true)) return;
    has_peer_left_ = true;
    apply(Input::withdrawn, after);
    after.notify = std::exchange(on_withdrawn_, nullptr);
}

// ---- what is known --------------------------------------------------------------------------

Expected<ConnectionData> Connector::data() const {
    const base::Lock lock(mutex_);
    if (!data_) {
        return fail(Status::connection_invalid, "connection_data: no request or reply has come yet",
                    "read it after connect(), or on a connector from a listener");
    }
    return *data_;
}

Expected<SocketAddress> Connector::local_address() const {
    const base::Lock lock(mutex_);
    if (!local_) {
        return fail(Status::connection_invalid, "local_address: the connector has no connection");
    }
    return *local_;
}

Expected<void> Connector::check_transport(const char* what) const {
    if (state_ == ConnectorState::connected || state_ == ConnectorState::disconnecting) return {};
    return fail(Status::connection_invalid, std::string(what) + ": the connector has no connection",
                "read it while it is connected");
}

Expected<std::string> Connector::transport() const {
    const base::Lock lock(mutex_);
    if (auto checked = check_transport("transport"); !checked) return Unexpected{checked.error()};
    return std::string(do_transport());
}

Expected<std::string> Connector::transport_reason() const {
    const base::Lock lock(mutex_);
    if (auto checked = check_transport("transport_reason"); !checked) {
        return Unexpected{checked.error()};
    }
    return std::string(do_transport_reason());
}

Expected<SocketAddress> Connector::peer_address() const {
    const base::Lock lock(mutex_);
    if (!peer_) {
        return fail(Status::connection_invalid, "peer_address: the connector has no connection");
    }
    return *peer_;
}

ConnectorState Connector::state() const {
    const base::Lock lock(mutex_);
    return state_;
}

bool Connector::is_withdrawn() const {
    const base::Lock lock(mutex_);
    return is_withdrawn_;
}

void Connector::set_on_withdrawn(std::function<void()> function) {
    {
        const base::Lock lock(mutex_);
        if (!is_withdrawn_) {
            on_withdrawn_ = std::move(function);
            return;
        }
    }
    if (function) function();
}

}  // namespace ndv::core

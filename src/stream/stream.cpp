// SPDX-License-Identifier: Apache-2.0
// How a stream begins and ends.
#include "stream/stream.hpp"

#include <cerrno>
#include <utility>

namespace ndv::stream {
namespace {

// What librdmacm's streams ask for; they read nothing, but an RDMA device may open with a Read.
constexpr std::uint32_t kReadLimit = 1;

// Of a failure that no system call reported: a socket tells by number what broke it (SO_ERROR), and
// 0 is none.
int error_number_for(Status status) {
    for (const int number : {ECONNREFUSED, ECONNRESET, ETIMEDOUT, ENETUNREACH, EHOSTUNREACH,
                             EADDRINUSE, EADDRNOTAVAIL, EACCES, ENOMEM}) {
        if (core::status_of(number) == status) return number;
    }
    if (status == Status::request_not_accepted) return ECONNREFUSED;
    if (status == Status::connection_disconnected) return ECONNRESET;
    const bool is_given_up = status == Status::connection_aborted || status == Status::cancelled ||
                             status == Status::file_forced_closed;
    return is_given_up ? ECONNABORTED : EIO;
}

}  // namespace

Stream::Stream(const std::shared_ptr<core::Adapter>& adapter, std::shared_ptr<Worker> worker,
               const StreamOptions& options)
    : adapter_(adapter),
      worker_(std::move(worker)),
      options_(options),
      keepalive_s_(options.keepalive_s) {}

Stream::~Stream() {
    if (is_foreign()) {
        // Its threads and descriptors are the parent's.
        static_cast<void>(channel_.release());
        return;
    }
    // No caller can wait any more for what was not sent.
    set_aborts_on_close(true);
    close();
    if (channel_) channel_->close();
    if (connector_) connector_->close();
}

// The queue pair and its memory, the engine, and in `parameters` what the peer learns.
Expected<void> Stream::prepare(Side side, core::ConnectParameters& parameters) {
    const auto adapter = adapter_.lock();
    if (!adapter || adapter->is_closed()) {
        return fail(Status::file_forced_closed, "the adapter of the socket is closed");
    }
    auto channel = Channel::create(*adapter, options_);
    if (!channel) return Unexpected{channel.error()};
    channel_ = std::move(*channel);
    Engine::Config config;
    config.mode = channel_->mode();
    config.credits = channel_->credits();
    config.targets = channel_->targets();
    config.iomap_entries = options_.iomap_entries;
    config.waits_for_peer = side == Side::accepting;
    engine_.emplace(config);
    for (std::size_t i = 0; i < Engine::kTargets; ++i) {
        auto segment = channel_->add_segment();
        if (!segment) return Unexpected{segment.error()};
        engine_->add_segment(*segment);
    }
    if (auto posted = channel_->post_receives(); !posted) return posted;
    sending_.begin(*channel_);
    channel_->cq().set_on_notify(while_alive(*this, [](Stream& self, Status) {
        // release: pairs with rearm(), which runs at the end of the round that this asks for.
        self.is_armed_.store(false, std::memory_order_release);
        self.signal(0);
    }));
    const auto told = engine_->local_data(reinterpret_cast<std::uint64_t>(channel_->targets()),
                                          channel_->targets_key());
    const auto bytes = told.emit();
    parameters.private_data.assign(bytes.begin(), bytes.end());
    parameters.inbound_read_limit = kReadLimit;
    parameters.outbound_read_limit = kReadLimit;
    return {};
}

Expected<std::shared_ptr<core::Operation>> Stream::begin_connect(
    core::ConnectParameters parameters) {
    if (auto prepared = prepare(Side::connecting, parameters); !prepared) {
        return Unexpected{prepared.error()};
    }
    const auto adapter = adapter_.lock();
    if (!adapter) return fail(Status::file_forced_closed, "the adapter is closed");
    auto connector = adapter->create_connector();
    if (!connector) return Unexpected{connector.error()};
    connector_ = std::move(*connector);
    peer_ = parameters.peer;
    return connector_->start_connect(channel_->qp(), std::move(parameters));
}

Expected<void> Stream::start_connect(core::ConnectParameters parameters) {
    if (auto started = worker_->start(); !started) return started;
    // The connector's own lock may be held when it is done, and memory may be short.
    const auto due = std::make_shared<Worker::Prepared>(
        Worker::prepare(while_alive(*this, [](Stream& self) { self.finish_connect(); })));
    std::function<void()> on_done = [due, worker = worker_] { worker->post(std::move(*due)); };
    std::shared_ptr<core::Operation> operation;
    {
        const Entered entered(*this);
        if (is_closed()) return fail(Status::file_forced_closed, "connect: the socket is closed");
        if (phase() != Phase::fresh) {
            return fail(Status::connection_active, "connect: the socket has or had a connection",
                        "create another socket", EISCONN);
        }
        auto started = begin_connect(std::move(parameters));
        if (!started) {
            connector_.reset();
            channel_.reset();
            engine_.reset();
            return Unexpected{started.error()};
        }
        enter_phase(Phase::connecting);
        connect_operation_ = operation = std::move(*started);
    }
    operation->set_on_done(std::move(on_done));
    return {};
}

// On the worker's thread: the peer has answered, or the attempt failed. It may run once more from
// where it found no memory.
void Stream::finish_connect() {
    std::shared_ptr<core::Connector> connector;
    {
        const Entered entered(*this);
        if (phase() != Phase::connecting || !connect_operation_) return;
        const Expected<void> outcome = connect_operation_->outcome();
        if (!outcome) {
            break_down(outcome.error());
            return;
        }
        connector = connector_;
    }
    auto data = connector->data();
    auto peer = data ? ConnectionData::parse(data->private_data)
                     : Expected<ConnectionData>(Unexpected{data.error()});
    {
        const Entered entered(*this);
        if (is_releasing_) return;
        auto started = !peer                   ? Expected<void>(Unexpected{peer.error()})
                       : engine_->is_started() ? Expected<void>()
                                               : engine_->start(*peer);
        if (!started) {
            break_down(started.error());
            return;
        }
    }
    auto completed = connector->start_complete_connect(peer_closes());
    if (!completed) {
        const Entered entered(*this);
        break_down(completed.error());
        return;
    }
    follow(*completed);
    const Entered entered(*this);
    connect_operation_.reset();
}

// The end of the connection that the peer decides on.
core::Connector::OnDisconnect Stream::peer_closes() {
    return while_alive(*this, [](Stream& self) { self.signal(kPeerClosed); });
}

// The last step of a connection: it is established, or broken. It may fail because a stream closes
// its connector, and then this thread holds the gate: the worker comes back without it.
void Stream::follow(const std::shared_ptr<core::Operation>& operation) {
    const auto due = std::make_shared<Worker::Prepared>(
        Worker::prepare(while_alive(*this, [operation](Stream& self) {
            const Entered entered(self);
            self.break_down(operation->outcome().error());
        })));
    operation->set_on_done(
        while_alive(*this, [asked = std::weak_ptr(operation), due](Stream& self) {
            const auto done = asked.lock();
            if (!done) return;
            if (done->outcome()) {
                self.signal(kEstablished);
            } else {
                self.worker_->post(std::move(*due));
            }
        }));
}

Expected<void> Stream::start_accept(std::shared_ptr<core::Connector> connector,
                                    std::chrono::nanoseconds timeout) {
    auto data = connector->data();
    if (!data) return Unexpected{data.error()};
    auto peer = ConnectionData::parse(data->private_data);
    if (!peer) return Unexpected{peer.error()};
    std::shared_ptr<core::QueuePair> qp;
    core::ConnectParameters parameters;
    {
        const Entered entered(*this);
        if (auto prepared = prepare(Side::accepting, parameters); !prepared) return prepared;
        if (auto started = engine_->start(*peer); !started) return started;
        if (auto address = connector->peer_address()) peer_ = *address;
        connector_ = connector;
        qp = channel_->qp();
        enter_phase(Phase::accepting);
    }
    parameters.timeout = timeout;
    auto accepted = connector->start_accept(qp, std::move(parameters), peer_closes());
    if (!accepted) {
        const Entered entered(*this);
        break_down(accepted.error());
        return Unexpected{accepted.error()};
    }
    follow(*accepted);
    return {};
}

Expected<void> Stream::shutdown(How how) {
    const Entered entered(*this);
    if (phase() != Phase::connected && phase() != Phase::over) {
        return fail(Status::connection_invalid, "shutdown: the socket is not connected", {},
                    ENOTCONN);
    }
    if (how != How::write) {
        receiving_.is_shut = true;
        receiving_.end({});
    }
    if (how != How::read && sending_.ending == Sending::Ending::none)
        sending_.ending = Sending::Ending::shutdown;
    // Nothing is wanted in either direction any more.
    if (receiving_.is_shut && sending_.ending != Sending::Ending::none)
        sending_.ending = Sending::Ending::disconnect;
    if (is_live()) serve(core::Budget::large);
    return {};
}

Expected<std::shared_ptr<core::Operation>> Stream::start_disconnect() {
    const Entered entered(*this);
    if (phase() != Phase::connected && phase() != Phase::over) {
        return fail(Status::invalid_device_state, "disconnect: the socket is not connected", {},
                    ENOTCONN);
    }
    if (sending_.end_operation && !sending_.end_operation->is_done()) {
        return fail(Status::invalid_device_state, "disconnect: a disconnect is under way",
                    "wait for it, or disconnect abortively");
    }
    auto operation = std::make_shared<core::Operation>();
    if (failure_) {
        outcomes_.finished.push_back({operation, Unexpected{*failure_}});
    } else if (!is_live() || sending_.is_end_posted) {
        outcomes_.finished.push_back({operation, {}});
    } else {
        sending_.end_operation = operation;
        if (sending_.ending == Sending::Ending::none) sending_.ending = Sending::Ending::shutdown;
        serve(core::Budget::large);
    }
    return operation;
}

void Stream::abort() {
    const Entered entered(*this);
    if (is_released_) return;
    is_closing_ = true;
    break_down(Status::cancelled, "the socket was closed, or its connection ended, here",
               ECONNABORTED);
}

void Stream::do_close() {
    if (is_foreign()) return;  // the connection and its memory are the parent's
    const Entered entered(*this);
    is_closing_ = true;
    receiving_.is_shut = true;
    if (const auto shown = std::exchange(waiting_.readiness, nullptr)) shown->set(true, true);
    if (!is_live()) {
        enter_phase(Phase::over);
        return;
    }
    end_after_close();
}

void Stream::end_after_close() try {
    const bool is_connected = phase() == Phase::connected && !is_releasing_;
    // A send that is cut short must not look whole: the peer sees a reset.
    if (aborts_on_close_.load(std::memory_order_relaxed) || sending_.has_transfers() ||
        (!is_connected && !is_releasing_)) {
        break_down(Status::cancelled, "the socket was closed", ECONNABORTED);
        return;
    }
    // What was taken over is still delivered; requests that a caller waits for are not.
    finish_transfers({Status::cancelled, "the socket was closed", {}, ECONNABORTED});
    sending_.ending = Sending::Ending::disconnect;
    worker_->keep(shared_from_this());
    worker_->post_at(Worker::Clock::now() + kLingerTime,
                     while_alive(*this, [](Stream& self) { self.abort(); }));
    serve(core::Budget::large);
} catch (const std::bad_alloc&) {
    break_without_memory();
}

void Stream::set_options(const StreamOptions& options) {
    const Entered entered(*this);
    if (phase() == Phase::fresh) options_ = options;
}

void Stream::set_keepalive(double interval_s) {
    if (keepalive_s_.exchange(interval_s, std::memory_order_relaxed) == interval_s) return;
    if (phase() == Phase::connected) begin_keepalive();
}

// Tasks that follow one another, in place of those that went on before.
void Stream::begin_keepalive() {
    schedule_keepalive(keepalive_chain_.fetch_add(1, std::memory_order_relaxed) + 1);
}

void Stream::schedule_keepalive(std::uint32_t chain) {
    const double interval = keepalive_s_.load(std::memory_order_relaxed);
    if (interval <= 0) return;
    const auto at = Worker::Clock::now() + std::chrono::duration_cast<Worker::Clock::duration>(
                                               std::chrono::duration<double>(interval));
    worker_->post_at(at, while_alive(*this, [chain](Stream& self) {
                         if (self.keepalive_chain_.load(std::memory_order_relaxed) != chain ||
                             self.phase() != Phase::connected) {
                             return;
                         }
                         self.signal(kKeepalive);
                         self.schedule_keepalive(chain);
                     }));
}

// ---- ends, with the gate --------------------------------------------------------------------

void Stream::break_down(Error error) {
    if (is_released_) return;
    if (error.os_error == 0) error.os_error = error_number_for(error.status);
    if (!failure_ && !is_releasing_) failure_ = std::move(error);
    tell(event::kBroken);
    enter_phase(Phase::over);
    finish_transfers(failure_ ? *failure_ : error);
    release_now();
}

void Stream::break_without_memory() {
    // A text as short as this one takes none.
    base::with_memory(
        [this] { break_down(Status::insufficient_resources, "out of memory", ENOMEM); });
}

void Stream::break_by(const core::Completion& done) {
    Error error{Status::connection_reset,
                "the connection ended before the stream did: the peer "
                "reset it, or it is gone",
                {},
                ECONNRESET};
    if (done.detail.source == core::Detail::Source::system && done.detail.os_error != 0) {
        error.os_error = done.detail.os_error;
        error.status = core::status_of(error.os_error);
        error.what = "the connection failed";
    }
    break_down(std::move(error));
}

// The peer has all we sent, or takes no more: the connection ends behind it.
void Stream::release_in_order() {
    if (is_releasing_ || is_released_) return;
    is_releasing_ = true;
    enter_phase(Phase::over);
    finish_transfers({Status::connection_reset, "the peer ended the connection", {}, ECONNRESET});
    auto operation = connector_->start_disconnect(kLingerTime);
    if (!operation) {
        release_now();
        return;
    }
    // Until the peer's end of the connection has come, too.
    worker_->keep(shared_from_this());
    (*operation)->set_on_done(while_alive(*this, [](Stream& self) { self.signal(kDisconnected); }));
}

void Stream::release_now() {
    if (is_released_) return;
    is_releasing_ = is_released_ = true;
    enter_phase(Phase::over);
    tell(event::kReleased);
    base::with_memory([this] {
        if (connector_) connector_->close();
        if (channel_) channel_->close();
        for (const Mapped& one : mapped_) one.memory->region->close();
    });
    worker_->let_go(*this);
}

void Stream::finish_transfers(const Error& error) {
    sending_.fail_waiting(error);
    end_receives();
    sending_.fail_posted(error);
    if (sending_.end_operation) {
        // It is done when the end has left behind all that was sent.
        const bool is_good =
            sending_.is_end_posted && !sending_.is_cut && !failure_ && !is_closing_;
        outcomes_.finished.push_back(
            {sending_.end_operation,
             is_good ? Expected<void>() : Expected<void>(Unexpected{error})});
        sending_.end_operation = nullptr;
    }
}

// Nothing more will come. Behind the peer's own end a receive is done with what it has; where the
// stream broke or was closed it fails, however much it has.
void Stream::end_receives() {
    std::optional<Error> error = failure_;
    if (!error && is_closing_) {
        error = {Status::cancelled, "the socket was closed", {}, ECONNABORTED};
    }
    receiving_.end(error);
}

}  // namespace ndv::stream

// SPDX-License-Identifier: Apache-2.0
// How a connector makes its connection: connect, complete_connect, accept, reject. Its mutex is
// never held while a queue pair is flushed or a user's callback is told.
#include "providers/verbs/connector.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <new>
#include <string>
#include <utility>

namespace ndv::verbs {
namespace {

// rdma_connect(3). Lost packets: seven times, as everybody has it. A peer without a posted receive:
// without end, because it is a pause and not a failure, and the peer can always disconnect.
constexpr std::uint8_t kRetries = 7;
constexpr std::uint8_t kRnrRetries = 7;

std::vector<std::byte> copy_of(const void* data, std::size_t size) {
    const auto* const bytes = static_cast<const std::byte*>(data);
    return data == nullptr ? std::vector<std::byte>() : std::vector<std::byte>(bytes, bytes + size);
}

rdma_conn_param parameters_of(const core::ConnectParameters& wanted, const HardwareQueuePair& qp) {
    rdma_conn_param out{};
    out.private_data = wanted.private_data.empty() ? nullptr : wanted.private_data.data();
    out.private_data_len = static_cast<std::uint8_t>(wanted.private_data.size());
    out.responder_resources = static_cast<std::uint8_t>(wanted.inbound_read_limit);
    out.initiator_depth = static_cast<std::uint8_t>(wanted.outbound_read_limit);
    out.retry_count = kRetries;
    out.rnr_retry_count = kRnrRetries;
    out.qp_num = qp.number();
    out.srq = qp.has_shared_queue() ? 1 : 0;
    return out;
}

}  // namespace

Connector::Connector(std::shared_ptr<AdapterParts> parts)
    : core::Connector(State::idle), parts_(std::move(parts)) {}

Connector::Connector(std::shared_ptr<AdapterParts> parts, std::shared_ptr<CmId> id,
                     const rdma_cm_event& request)
    : core::Connector(State::incoming), parts_(std::move(parts)), id_(std::move(id)) {
    const core::AdapterInfo& info = parts_->device->info();
    const rdma_conn_param& asked = request.param.conn;
    data_ = core::ConnectionData{
        std::min<std::uint32_t>(asked.responder_resources, info.max_inbound_read_limit),
        std::min<std::uint32_t>(asked.initiator_depth, info.max_outbound_read_limit),
        copy_of(asked.private_data, asked.private_data_len)};
    local_ = id_->local_address();
    peer_ = id_->peer_address();
}

Connector::~Connector() {
    if (!is_foreign()) close();
}

void Connector::Aftermath::run() {
    try {
        if (to_end) to_end->end(why);
        if (to_unreserve) to_unreserve->unreserve();
    } catch (const std::bad_alloc&) {
        // Those who wait learn of the end in any case.
    }
    id.reset();
    if (operation) operation->complete(std::move(outcome));
    if (tell) tell();
}

// One queue pair, one connector, one connection; the checks that connect and accept share.
Expected<std::shared_ptr<QueuePair>> Connector::claim(const std::shared_ptr<core::QueuePair>& qp,
                                                      core::ConnectParameters& parameters,
                                                      std::uint32_t max_private_data) const {
    const core::AdapterInfo& info = parts_->device->info();
    // NDK: capped in silence.
    parameters.inbound_read_limit =
        std::min(parameters.inbound_read_limit, info.max_inbound_read_limit);
    parameters.outbound_read_limit =
        std::min(parameters.outbound_read_limit, info.max_outbound_read_limit);
    if (parameters.private_data.size() > max_private_data) {
        return fail(Status::invalid_buffer_size,
                    "private_data has " + std::to_string(parameters.private_data.size()) +
                        " bytes; at most " + std::to_string(max_private_data) + " fit",
                    "see adapter.info");
    }
    if (parameters.crc.value_or(false) && parts_->device->is_iwarp()) {
        return fail(Status::not_supported, "crc: the kernel decides about CRC for " + info.name,
                    "leave crc out");
    }
    auto mine = std::dynamic_pointer_cast<QueuePair>(qp);
    if (!mine) {
        return fail(Status::invalid_parameter, "the queue pair belongs to another adapter");
    }
    if (mine->is_closed()) return fail(Status::file_forced_closed, "the queue pair is closed");
    if (mine->state() == core::QueuePairState::error) {
        return fail(Status::connection_active,
                    "the queue pair was flushed or has had its connection",
                    "a queue pair lives for one connection: create another");
    }
    if (!mine->reserve()) {
        return fail(Status::connection_active, "the queue pair is connected or connecting",
                    "a queue pair lives for one connection: create another");
    }
    return mine;
}

core::Pending Connector::start_connect(std::shared_ptr<core::QueuePair> qp,
                                       core::ConnectParameters parameters) {
    if (is_closed()) return fail(Status::file_forced_closed, "connect: the connector is closed");
    std::shared_ptr<core::Operation> pending;
    Expected<void> begun;
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        if (state_ != State::idle) {
            return core::wrong_connector_state("connect", state_,
                                               "a connector makes one connection: create another");
        }
        auto claimed = claim(qp, parameters, parts_->device->info().max_caller_data);
        if (!claimed) return Unexpected{claimed.error()};
        qp_ = *claimed;
        peer_ = parameters.peer;
        data_.reset();
        peer_is_gone_ = false;
        ports_left_ = kMorePorts;
        parameters_ = std::move(parameters);
        state_ = State::connecting;
        operation_ = pending = std::make_shared<core::Operation>();
        begun = begin_resolving(parameters_);
        if (!begun) {
            fail_connect(Unexpected{begun.error()}, after);
        } else {
            parts_->progress->set_deadline(std::static_pointer_cast<Connector>(shared_from_this()),
                                           now() + parameters_.timeout);
        }
    }
    after.run();
    if (!begun) return Unexpected{begun.error()};
    return pending;
}

Expected<void> Connector::begin_resolving(const core::ConnectParameters& parameters) {
    auto made = CmId::create(parts_->channel, parts_->worker, parts_->device,
                             std::static_pointer_cast<Connector>(shared_from_this()));
    if (!made) return Unexpected{made.error()};
    id_ = *made;
    if (parameters.endpoint) {
        if (auto bound = bind_to(*parameters.endpoint); !bound) return bound;
    }
    core::SocketAddress peer = parameters.peer;
    core::SocketAddress local = parameters.local.value_or(core::SocketAddress{});
    if (rdma_resolve_addr(id_->get(), parameters.local ? local.raw() : nullptr, peer.raw(),
                          milliseconds_of(parameters.timeout)) != 0) {
        const int os_error = errno;
        const bool is_local = parameters.local && (os_error == EADDRNOTAVAIL ||
                                                   os_error == EADDRINUSE || os_error == ENODEV);
        const Status status = os_error == ENODEV || os_error == EINVAL ? Status::invalid_address
                                                                       : core::status_of(os_error);
        return fail(status,
                    is_local ? "connect from " + local.text() + ": bind failed"
                             : "connect to " + peer.text() + " failed",
                    "name an address of a network interface of " + parts_->device->name(),
                    os_error);
    }
    return {};
}

Expected<void> Connector::bind_to(const core::SharedEndpoint& endpoint) {
    const auto* const mine = dynamic_cast<const SharedEndpoint*>(&endpoint);
    if (mine == nullptr || mine->parts() != parts_ || mine->is_closed()) {
        return fail(mine != nullptr && mine->is_closed() ? Status::file_forced_closed
                                                         : Status::invalid_parameter,
                    "connect: the shared endpoint is closed, or of another adapter");
    }
    endpoint_ = EndpointUse::begin(mine->share(), peer_->text());
    if (!endpoint_) {
        return fail(Status::address_already_exists,
                    "connect to " + peer_->text() + ": another connector has connected from " +
                        mine->local_address().text() + " to it",
                    "one address connects to one peer once: close the other, or use another one");
    }
    int on = 1;
    core::SocketAddress local = mine->local_address();
    if (rdma_set_option(id_->get(), RDMA_OPTION_ID, RDMA_OPTION_ID_REUSEADDR, &on, sizeof on) !=
            0 ||
        rdma_bind_addr(id_->get(), local.raw()) != 0) {
        return fail(core::status_of(errno), "connect from " + local.text() + ": bind failed", {},
                    errno);
    }
    return {};
}

// The addresses are known: checks that the way leads through this device, then asks.
Expected<void> Connector::ask_peer() {
    const std::shared_ptr<HardwareQueuePair> hardware = qp_->hardware();
    const bool is_iwarp = parts_->device->is_iwarp();
    const auto ask = [](const CmId& id, const core::ConnectParameters& wanted,
                        const HardwareQueuePair& qp) {
        rdma_conn_param asked = parameters_of(wanted, qp);
        return rdma_connect(id.get(), &asked) == 0 ? 0 : errno;
    };
    if (!is_iwarp) {
        const int os_error = ask(*id_, parameters_, *hardware);
        if (os_error == 0) return {};
        return fail(core::status_of(os_error), "connect to " + peer_->text() + " failed", {},
                    os_error);
    }
    // Connects TCP inside the call and may stay there for minutes; what it uses lives as long.
    return Worker::run_detached([ask, id = id_, wanted = parameters_, hardware,
                                 connector = std::weak_ptr<core::Object>(weak_from_this())] {
        const int os_error = ask(*id, wanted, *hardware);
        if (os_error == 0) return;
        const auto alive = std::static_pointer_cast<Connector>(connector.lock());
        if (!alive) return;
        Aftermath after;
        {
            const base::Lock lock(alive->mutex_);
            if (alive->state_ != State::connecting || alive->id_ != id) return;
            const bool is_chosen = alive->parameters_.local || alive->parameters_.endpoint;
            if (os_error == EADDRINUSE && !is_chosen && alive->ports_left_ > 0) {
                --alive->ports_left_;
                if (alive->begin_resolving(alive->parameters_)) return;
            }
            const Status status = core::status_of(os_error);
            alive->fail_connect(
                fail(status,
                     "connect to " + alive->peer_->text() +
                         " failed: " + std::string(status_meaning(status)),
                     os_error == ECONNREFUSED ? "is the listener running?" : "", os_error),
                after);
        }
        after.run();
    });
}

core::Pending Connector::start_complete_connect(OnDisconnect on_disconnect) {
    std::shared_ptr<core::Operation> pending = std::make_shared<core::Operation>();
    Expected<void> ready;
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        if (is_closed() || state_ != State::accepted) {
            return core::wrong_connector_state("complete_connect", state_,
                                               "call it once, after connect()");
        }
        if (!peer_is_gone_ && !parts_->device->is_iwarp()) {
            ready = qp_->make_ready("complete_connect", id_->get(), *data_);
            if (ready && rdma_establish(id_->get()) != 0) {
                ready = fail(Status::connection_aborted, "complete_connect failed", {}, errno);
            }
        }
        if (peer_is_gone_) {
            ready = fail(Status::connection_aborted, "complete_connect: the peer gave up",
                         "connect again, with another connector and queue pair");
        }
        if (ready) {
            state_ = State::connected;
            on_disconnect_ = std::move(on_disconnect);
            become_connected();
            parts_->counters.connects.fetch_add(1, std::memory_order_relaxed);
        } else {
            state_ = State::disconnected;
            after.to_end = std::exchange(qp_, nullptr);
            after.why = core::End::not_made;
            after.id = std::move(id_);
            parts_->counters.connect_failures.fetch_add(1, std::memory_order_relaxed);
        }
    }
    after.run();
    if (!ready) return Unexpected{ready.error()};
    pending->complete({});
    return pending;
}

core::Pending Connector::start_accept(std::shared_ptr<core::QueuePair> qp,
                                      core::ConnectParameters parameters,
                                      OnDisconnect on_disconnect) {
    std::shared_ptr<core::Operation> pending;
    Expected<void> accepted;
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        if (is_closed() || state_ != State::incoming) {
            return core::wrong_connector_state("accept", state_,
                                               "accept a connector from Listener, once");
        }
        auto claimed = claim(qp, parameters, parts_->device->info().max_callee_data);
        if (!claimed) return Unexpected{claimed.error()};
        qp_ = *claimed;
        data_->inbound_read_limit =
            std::min(data_->inbound_read_limit, parameters.inbound_read_limit);
        data_->outbound_read_limit =
            std::min(data_->outbound_read_limit, parameters.outbound_read_limit);
        parameters.inbound_read_limit = data_->inbound_read_limit;
        parameters.outbound_read_limit = data_->outbound_read_limit;
        const auto self = std::static_pointer_cast<Connector>(shared_from_this());
        qp_->attach(self, data_->outbound_read_limit);
        if (!parts_->device->is_iwarp() && !peer_is_gone_) {
            accepted = qp_->make_ready("accept", id_->get(), *data_);
        }
        // The answer is on its way before rdma_accept returns: the state comes first.
        state_ = State::completing;
        on_disconnect_ = std::move(on_disconnect);
        operation_ = pending = std::make_shared<core::Operation>();
        rdma_conn_param answer = parameters_of(parameters, *qp_->hardware());
        int os_error = 0;
        if (accepted && !peer_is_gone_ && rdma_accept(id_->get(), &answer) != 0) os_error = errno;
        if (peer_is_gone_ || os_error != 0) {
            accepted = fail(Status::connection_aborted, "accept: " + peer_->text() + " gave up",
                            "nothing is left to accept; wait for the next request", os_error);
        }
        if (accepted) {
            parts_->progress->set_deadline(self, now() + parameters.timeout);
        } else {
            state_ = State::disconnected;
            operation_ = nullptr;
            on_disconnect_ = nullptr;
            after.to_unreserve = std::exchange(qp_, nullptr);
            after.id = std::move(id_);
            if (!peer_is_gone_) {  // that was counted when it left
                parts_->counters.connect_failures.fetch_add(1, std::memory_order_relaxed);
            }
        }
    }
    after.run();
    if (!accepted) return Unexpected{accepted.error()};
    return pending;
}

Expected<void> Connector::reject(std::vector<std::byte> private_data) {
    const std::uint32_t most = parts_->device->info().max_callee_data;
    if (private_data.size() > most) {
        return fail(Status::invalid_buffer_size,
                    "reject: private_data has " + std::to_string(private_data.size()) +
                        " bytes; at most " + std::to_string(most) + " fit",
                    "see adapter.info");
    }
    Aftermath after;
    bool is_aborted = false;
    {
        const base::Lock lock(mutex_);
        if (is_closed() || (state_ != State::incoming && state_ != State::accepted)) {
            return core::wrong_connector_state("reject", state_,
                                               "reject a request, or an answer to connect()");
        }
        is_aborted = peer_is_gone_;
        if (!is_aborted && state_ == State::accepted && parts_->device->is_iwarp()) {
            // iWARP knows no third message: the connection is there, and its end is the answer.
            static_cast<void>(rdma_disconnect(id_->get()));
        } else if (!is_aborted) {
            is_aborted = rdma_reject(id_->get(), private_data.data(),
                                     static_cast<std::uint8_t>(private_data.size())) != 0;
        }
        state_ = State::disconnected;
        after.id = std::move(id_);
        after.to_unreserve = std::exchange(qp_, nullptr);
    }
    after.run();
    if (is_aborted) return fail(Status::connection_aborted, "reject: the peer had given up");
    return {};
}

}  // namespace ndv::verbs

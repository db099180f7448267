// SPDX-License-Identifier: Apache-2.0
// How a verbs connector makes its connection, answers and says goodbye.
#include "providers/verbs/connector.hpp"

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

namespace ndv::verbs {
namespace {

// rdma_connect(3). Lost packets: seven times, as usual. A peer without a posted receive:
// without end, because it is a pause and not a failure, and the peer can always disconnect.
constexpr std::uint8_t kRetries = 7;
constexpr std::uint8_t kRnrRetries = 7;

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
    : core::Connector(State::idle, *parts->progress, parts->counters, parts->device->info()),
      parts_(std::move(parts)) {}

Connector::Connector(std::shared_ptr<AdapterParts> parts, std::shared_ptr<CmId> id,
                     const rdma_cm_event& request)
    : core::Connector(State::incoming, *parts->progress, parts->counters, parts->device->info()),
      parts_(std::move(parts)),
      id_(std::move(id)) {
    const core::AdapterInfo& info = parts_->device->info();
    const rdma_conn_param& asked = request.param.conn;
    data_ = core::ConnectionData{
        std::min<std::uint32_t>(asked.responder_resources, info.max_inbound_read_limit),
        std::min<std::uint32_t>(asked.initiator_depth, info.max_outbound_read_limit),
        private_data_of(asked)};
    local_ = id_->local_address();
    peer_ = id_->peer_address();
}

Connector::~Connector() {
    if (!is_foreign()) close();
}

Expected<void> Connector::do_check(const core::ConnectParameters& parameters) const {
    if (!parameters.crc.value_or(false) || !parts_->device->is_iwarp()) return {};
    return fail(Status::not_supported,
                "crc: the kernel decides about CRC for " + parts_->device->info().name,
                "leave crc out");
}

// ---- active side ----------------------------------------------------------------------------

Expected<void> Connector::do_connect(const core::ConnectParameters& parameters) {
    parameters_ = parameters;
    ports_left_ = kMorePorts;
    return begin_resolving();
}

Expected<void> Connector::begin_resolving() {
    const core::ConnectParameters& parameters = parameters_;
    auto made = CmId::create(*parts_, std::static_pointer_cast<Connector>(shared_from_this()));
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

Expected<void> Connector::bind_to(core::SharedEndpoint& endpoint) {
    auto* const mine = dynamic_cast<SharedEndpoint*>(&endpoint);
    if (mine == nullptr || mine->parts() != parts_ || mine->is_closed()) {
        return fail(mine != nullptr && mine->is_closed() ? Status::file_forced_closed
                                                         : Status::invalid_parameter,
                    "connect: the shared endpoint is closed, or of another adapter");
    }
    held_address_ = mine->use(peer_->text());
    if (!held_address_) {
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

// The device that rdma_cm has chosen must be ours.
Expected<void> Connector::choose_route() {
    if (!id_->is_on(*parts_->device)) {
        return fail(Status::invalid_address,
                    "connect to " + peer_->text() + ": the way there does not lead through " +
                        parts_->device->name(),
                    "give a local address of the device, or open the device that has the route");
    }
    if (rdma_resolve_route(id_->get(), milliseconds_of(parameters_.timeout)) == 0) return {};
    return fail(core::status_of(errno), "connect to " + peer_->text() + ": no route", {}, errno);
}

// The addresses are known.
Expected<void> Connector::ask_peer() {
    const std::shared_ptr<HardwareQueuePair> hardware = queue_pair().hardware();
    const auto ask = [](const CmId& id, const core::ConnectParameters& wanted,
                        const HardwareQueuePair& qp) {
        rdma_conn_param asked = parameters_of(wanted, qp);
        return rdma_connect(id.get(), &asked) == 0 ? 0 : errno;
    };
    if (!parts_->device->is_iwarp()) {
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
            if (os_error == EADDRINUSE && alive->ask_again()) return;
            const Status status = core::status_of(os_error);
            alive->apply(
                core::Input::failed, after,
                fail(status,
                     "connect to " + alive->peer_->text() +
                         " failed: " + std::string(status_meaning(status)),
                     os_error == ECONNREFUSED ? "is the listener running?" : "", os_error));
        }
        after.run();
    });
}

// The port that rdma_cm chose is TCP's: from another one.
bool Connector::ask_again() {
    if (parameters_.local || parameters_.endpoint || ports_left_ == 0) return false;
    --ports_left_;
    return begin_resolving().has_value();
}

Expected<void> Connector::do_complete() {
    if (parts_->device->is_iwarp()) return {};
    auto ready = queue_pair().make_ready("complete_connect", id_->get(), *data_);
    if (ready && rdma_establish(id_->get()) != 0) {
        ready = fail(Status::connection_aborted, "complete_connect failed", {}, errno);
    }
    return ready;
}

// ---- passive side ---------------------------------------------------------------------------

Expected<void> Connector::do_accept(const core::ConnectParameters& parameters) {
    core::ConnectParameters agreed = parameters;
    data_->inbound_read_limit = agreed.inbound_read_limit =
        std::min(data_->inbound_read_limit, parameters.inbound_read_limit);
    data_->outbound_read_limit = agreed.outbound_read_limit =
        std::min(data_->outbound_read_limit, parameters.outbound_read_limit);
    queue_pair().attach(std::static_pointer_cast<Connector>(shared_from_this()),
                        data_->outbound_read_limit);
    if (!parts_->device->is_iwarp()) {
        if (auto ready = queue_pair().make_ready("accept", id_->get(), *data_); !ready) {
            return ready;
        }
    }
    rdma_conn_param answer = parameters_of(agreed, *queue_pair().hardware());
    if (rdma_accept(id_->get(), &answer) == 0) return {};
    return fail(Status::connection_aborted, "accept: " + peer_->text() + " gave up",
                "nothing is left to accept; wait for the next request", errno);
}

// ---- both -----------------------------------------------------------------------------------

bool Connector::do_goodbye(State state, std::span<const std::byte> private_data) {
    if (!id_) return true;
    // iWARP knows no third message: the connection is there, and its end is the answer.
    const bool is_answer =
        state == State::incoming || (state == State::accepted && !parts_->device->is_iwarp());
    if (!is_answer) {
        static_cast<void>(rdma_disconnect(id_->get()));
        return true;
    }
    return rdma_reject(id_->get(), private_data.data(),
                       static_cast<std::uint8_t>(private_data.size())) == 0;
}

}  // namespace ndv::verbs

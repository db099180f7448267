// SPDX-License-Identifier: Apache-2.0
// How a connector makes its connection: connect, start-up, complete_connect, accept, reject. Its
// mutex is never held while the queue pair steps or while a user's callback is told.
#include "providers/soft/connector.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <system_error>
#include <utility>

namespace ndv::soft {
namespace {

// With the four bytes of RFC 6581, which every request of ours carries.
constexpr std::size_t kMaxPrivateData = iwarp::kMpaMaxPrivateData - iwarp::MpaEnhanced::kSize;

std::vector<std::byte> copy_of(std::span<const std::byte> bytes) {
    return {bytes.begin(), bytes.end()};
}

// Bit errors between hosts pass TCP's checksum at times.
bool wants_crc(const core::ConnectParameters& parameters, const core::AdapterOptions& options,
               const core::SocketAddress& local, const core::SocketAddress& peer) {
    if (parameters.crc) return *parameters.crc;
    return options.crc ? *options.crc : !is_one_host(local, peer);
}

// -1: nothing waits to be read; 0: the stream has ended, well or not; 1: bytes wait.
int look_at(const Link& link) {
    std::byte byte;
    const ssize_t seen = ::recv(link.descriptor(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (seen < 0) return errno == EAGAIN || errno == EWOULDBLOCK ? -1 : 0;
    return static_cast<int>(seen);
}

iwarp::HandshakeOffer offer_of(const core::ConnectParameters& parameters, bool crc) {
    iwarp::HandshakeOffer offer;
    offer.ird = static_cast<std::uint16_t>(parameters.inbound_read_limit);
    offer.ord = static_cast<std::uint16_t>(parameters.outbound_read_limit);
    offer.crc = crc;
    offer.peer_to_peer = parameters.peer_to_peer;
    offer.private_data = parameters.private_data;
    return offer;
}

Unexpected handshake_failure(iwarp::Handshake::Outcome outcome, const std::string& peer) {
    using Outcome = iwarp::Handshake::Outcome;
    switch (outcome) {
        case Outcome::refused:
            return fail(Status::connection_refused, "connect: " + peer + " rejected the request",
                        "connection_data holds the peer's private data");
        case Outcome::bad_revision:
            return fail(Status::connection_aborted,
                        "connect: " + peer + " answered with another MPA revision");
        case Outcome::markers_refused:
            return fail(Status::connection_refused,
                        "connect: " + peer + " insists on MPA markers, which are not supported");
        case Outcome::insufficient_ird:
            return fail(Status::connection_aborted,
                        "connect: " + peer + " wants more reads in flight than inbound_read_limit",
                        "connect with a larger inbound_read_limit");
        case Outcome::no_common_rtr:
            return fail(Status::connection_aborted,
                        "connect: " + peer + " granted no way to open a peer-to-peer stream");
        case Outcome::pending:
        case Outcome::request_received:
        case Outcome::agreed:
        case Outcome::rejected:
        case Outcome::bad_frame:
            break;
    }
    return fail(Status::connection_aborted,
                "connect: " + peer + " does not speak MPA (RFC 5044) on this port",
                "is it an RDMA listener?");
}

}  // namespace

Connector::Connector(std::shared_ptr<AdapterParts> parts)
    : core::Connector(State::idle), parts_(std::move(parts)) {}

Connector::Connector(std::shared_ptr<AdapterParts> parts, std::unique_ptr<Link> link,
                     const iwarp::Handshake& handshake)
    : core::Connector(State::incoming),
      parts_(std::move(parts)),
      link_(std::move(link)),
      handshake_(handshake) {
    const auto known = [](std::uint16_t limit, std::uint32_t most) {
        return limit == iwarp::MpaEnhanced::kNoNegotiation ? most
                                                           : std::min<std::uint32_t>(limit, most);
    };
    const core::AdapterInfo info = soft_limits();
    data_ = core::ConnectionData{known(handshake.peer_ord(), info.max_inbound_read_limit),
                                 known(handshake.peer_ird(), info.max_outbound_read_limit),
                                 copy_of(handshake.private_data())};
    local_ = local_address_of(link_->descriptor());
    peer_ = peer_address_of(link_->descriptor());
}

Connector::~Connector() {
    if (!is_foreign()) close();
}

// One queue pair, one connector, one connection; the checks that connect and accept share.
Expected<std::shared_ptr<QueuePair>> Connector::claim(const std::shared_ptr<core::QueuePair>& qp,
                                                      const core::ConnectParameters& parameters) {
    if (parameters.private_data.size() > kMaxPrivateData) {
        return fail(Status::invalid_buffer_size,
                    "private_data has " + std::to_string(parameters.private_data.size()) +
                        " bytes; at most " + std::to_string(kMaxPrivateData) + " fit",
                    "see adapter.info");
    }
    const core::AdapterInfo& info = qp->pd()->info();
    if (parameters.inbound_read_limit > info.max_inbound_read_limit ||
        parameters.outbound_read_limit > info.max_outbound_read_limit) {
        return fail(Status::internal_error, "read limits were not capped");
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
    const core::AdapterInfo& info = qp->pd()->info();
    // NDK: capped in silence.
    parameters.inbound_read_limit =
        std::min(parameters.inbound_read_limit, info.max_inbound_read_limit);
    parameters.outbound_read_limit =
        std::min(parameters.outbound_read_limit, info.max_outbound_read_limit);
    const base::Lock lock(mutex_);
    if (state_ != State::idle) {
        return core::wrong_connector_state("connect", state_,
                                           "a connector makes one connection: create another");
    }
    auto claimed = claim(qp, parameters);
    if (!claimed) return Unexpected{claimed.error()};
    if (!parameters.local) parameters.local = parts_->address;
    if (parameters.endpoint) parameters.local = parameters.endpoint->local_address();
    if (auto opened = open_socket(parameters); !opened) {
        (*claimed)->unreserve();
        link_.reset();
        endpoint_.reset();
        parts_->counters.connect_failures.fetch_add(1, std::memory_order_relaxed);
        return Unexpected{opened.error()};
    }
    qp_ = *claimed;
    peer_ = parameters.peer;
    data_.reset();
    // connect() has chosen the socket's address.
    const bool crc = wants_crc(parameters, parts_->options, local_address_of(link_->descriptor()),
                               parameters.peer);
    handshake_ = iwarp::Handshake::initiator(offer_of(parameters, crc));
    is_tcp_connected_ = false;
    wanted_.store(EPOLLOUT, std::memory_order_release);
    const auto self = std::static_pointer_cast<Connector>(shared_from_this());
    if (auto added = parts_->progress->add(self, link_->descriptor()); !added) {
        Aftermath none;  // there is no operation yet: the call itself fails
        finish_connect(Unexpected{added.error()}, none);
        return Unexpected{added.error()};
    }
    state_ = State::connecting;
    operation_ = std::make_shared<core::Operation>();
    parts_->progress->set_deadline(self, now() + parameters.timeout);
    return operation_;
}

Expected<void> Connector::open_socket(const core::ConnectParameters& parameters) {
    const std::string peer = parameters.peer.text();
    base::Descriptor socket(
        ::socket(parameters.peer.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!socket) {
        return fail(status_of(errno), "connect to " + peer + ": no socket",
                    "raise the limit on open files (ulimit -n)", errno);
    }
    prepare_socket(socket.get(), parts_->options.keepalive_s);
    if (parameters.endpoint) {
        const auto mine = std::dynamic_pointer_cast<SharedEndpoint>(parameters.endpoint);
        if (!mine || mine->is_closed()) {
            return fail(mine ? Status::file_forced_closed : Status::invalid_parameter,
                        "connect: the shared endpoint is closed, or of another adapter");
        }
        endpoint_ = mine->endpoint();
        const int on = 1;
        static_cast<void>(::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
    }
    if (parameters.local) {
        const core::SocketAddress& local = *parameters.local;
        if (::bind(socket.get(), local.raw(), local.length) != 0) {
            const bool is_exhausted = errno == EADDRINUSE && local.port() == 0;
            return fail(is_exhausted ? Status::too_many_addresses : status_of(errno),
                        "connect from " + local.text() + ": bind failed",
                        "name an address of this host and a free port, or 0", errno);
        }
    }
    if (::connect(socket.get(), parameters.peer.raw(), parameters.peer.length) != 0 &&
        errno != EINPROGRESS) {
        // EADDRNOTAVAIL: with a bound port this pair of addresses is connected already, without one
        // no port is left.
        const int os_error = errno;
        const bool is_bound = parameters.local && parameters.local->port() != 0;
        const Status status = os_error != EADDRNOTAVAIL ? status_of(os_error)
                              : is_bound                ? Status::address_already_exists
                                                        : Status::too_many_addresses;
        return fail(status,
                    "connect to " + peer + " failed: " + std::generic_category().message(os_error),
                    status == Status::too_many_addresses
                        ? "no local port is free; those of ended connections rest for a minute"
                        : "",
                    os_error);
    }
    link_ = parts_->make_link(std::move(socket));
    return {};
}

void Connector::watch() {
    const base::Lock lock(mutex_);
    if (state_ != State::incoming || !link_) return;
    wanted_.store(EPOLLIN, std::memory_order_release);
    // Unwatched it is looked at when it is answered.
    static_cast<void>(parts_->progress->add(std::static_pointer_cast<Connector>(shared_from_this()),
                                            link_->descriptor()));
}

void Connector::on_ready() {
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        if (state_ == State::connecting && link_) {
            try {
                advance_connect(after);
            } catch (const std::bad_alloc&) {
                // Half of the peer's answer may be lost. A text as short as this one takes none.
                finish_connect(fail(Status::insufficient_resources, "out of memory", {}, ENOMEM),
                               after);
            }
        }
        if (state_ == State::incoming && link_ && is_void()) after.tell = withdraw();
    }
    after.run();
}

// Nothing may follow a request before its reply: bytes or an end mean that it is void.
bool Connector::is_void() const { return look_at(*link_) >= 0; }

// Passive: the peer has taken its request back; nothing of it is kept but what it said.
std::function<void()> Connector::withdraw() {
    parts_->progress->remove(*this, link_->descriptor());
    parts_->counters.connect_failures.fetch_add(1, std::memory_order_relaxed);
    link_.reset();
    return note_withdrawn();
}

void Connector::advance_connect(Aftermath& after) {
    if (!is_tcp_connected_) {
        int os_error = 0;
        socklen_t length = sizeof os_error;
        ::getsockopt(link_->descriptor(), SOL_SOCKET, SO_ERROR, &os_error, &length);
        if (os_error != 0) {
            const Status status = status_of(os_error);
            finish_connect(
                fail(status,
                     "connect to " + peer_->text() +
                         " failed: " + std::string(status_meaning(status)),
                     os_error == ECONNREFUSED ? "is the listener running?" : "", os_error),
                after);
            return;
        }
        is_tcp_connected_ = true;
        parts_->local_buffers.apply(link_->descriptor());
        local_ = local_address_of(link_->descriptor());
    }
    drive_handshake(after);
}

void Connector::drive_handshake(Aftermath& after) {
    using Outcome = iwarp::Handshake::Outcome;
    while (true) {
        LinkResult result;
        bool is_reading = false;
        if (const auto out = handshake_->poll_transmit(); !out.empty()) {
            const iovec piece{const_cast<std::byte*>(out.data()), out.size()};
            result = link_->write(&piece, 1, false);
            if (result.kind == LinkResult::Kind::moved) handshake_->handle_sent(result.size);
        } else if (const auto in = handshake_->poll_receive(); !in.empty()) {
            is_reading = true;
            const iovec piece{in.data(), in.size()};
            result = link_->read(&piece, 1);
            if (result.kind == LinkResult::Kind::moved) handshake_->handle_received(result.size);
        }
        if (result.kind == LinkResult::Kind::would_block) {
            wanted_.store(is_reading ? EPOLLIN : EPOLLOUT, std::memory_order_release);
            return;
        }
        if (result.kind != LinkResult::Kind::moved) {
            const Status status = result.kind == LinkResult::Kind::end ? Status::connection_aborted
                                                                       : status_of(result.os_error);
            finish_connect(fail(status,
                                "connect: " + peer_->text() +
                                    " closed the connection before it answered the MPA request",
                                "is it an RDMA listener, and is it accepting?", result.os_error),
                           after);
            return;
        }
        const Outcome outcome = handshake_->outcome();
        if (outcome == Outcome::pending) continue;
        const iwarp::Agreement agreement = handshake_->agreement();
        data_ =
            core::ConnectionData{agreement.ird, agreement.ord, copy_of(handshake_->private_data())};
        if (outcome == Outcome::agreed) {
            finish_connect({}, after);
        } else {
            finish_connect(handshake_failure(outcome, peer_->text()), after);
        }
        return;
    }
}

// The attempt is over, well or not; the link leaves the progress thread's set.
void Connector::finish_connect(Expected<void> outcome, Aftermath& after) {
    parts_->progress->clear_deadline(*this);
    if (link_) parts_->progress->remove(*this, link_->descriptor());
    if (outcome) {
        state_ = State::accepted;
    } else {
        parts_->counters.connect_failures.fetch_add(1, std::memory_order_relaxed);
        state_ = State::idle;
        // Only a Terminate of ours is worth a graceful end; an attempt that got no answer is not.
        if (handshake_ && handshake_->has_sent_terminate()) drop_link();
        link_.reset();
        endpoint_.reset();
        if (qp_) qp_->unreserve();
        qp_.reset();
    }
    after.operation = std::exchange(operation_, nullptr);
    after.outcome = std::move(outcome);
}

void Connector::drop_link() {
    if (!link_) return;
    link_->shut_write();
    parts_->progress->linger(std::move(link_), state_ == State::incoming ? Progress::Peer::stranger
                                                                         : Progress::Peer::known);
}

// Active side: the stream is open as far as MPA goes. An end in order is that of a connection
// which was used, or could have been; a reset says that it never was.
void Connector::refuse_answer() {
    link_->reset_at_close();
    link_.reset();
}

bool Connector::peer_is_gone() const { return look_at(*link_) == 0; }

iwarp::ConnectionConfig Connector::stream_config(bool is_initiator) const {
    const iwarp::Agreement& agreement = handshake_->agreement();
    iwarp::ConnectionConfig config;
    config.is_initiator = is_initiator;
    config.crc = agreement.crc;
    config.rtr = agreement.rtr;
    config.ird = agreement.ird;
    config.ord = agreement.ord;
    config.wakes_peer = is_initiator;
    config.seed = parts_->seed ^ (id() * 0x9E3779B97F4A7C15ULL);
    return config;
}

// The stream belongs to the queue pair from here on, unless it cannot be had.
Expected<void> Connector::hand_over(QueuePair& qp, std::unique_ptr<Link> link,
                                    const iwarp::ConnectionConfig& config) {
    auto attached =
        qp.attach(std::move(link), config, std::static_pointer_cast<Connector>(shared_from_this()));
    if (attached) return {};
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        parts_->counters.connect_failures.fetch_add(1, std::memory_order_relaxed);
        end(Unexpected{attached.error()}, core::End::not_made, after);
    }
    after.run();
    return attached;
}

core::Pending Connector::start_complete_connect(OnDisconnect on_disconnect) {
    std::shared_ptr<QueuePair> qp;
    std::unique_ptr<Link> link;
    iwarp::ConnectionConfig config;
    {
        const base::Lock lock(mutex_);
        if (is_closed() || state_ != State::accepted) {
            return core::wrong_connector_state("complete_connect", state_,
                                               "call it once, after connect()");
        }
        qp = qp_;
        if (peer_is_gone()) {
            state_ = State::disconnected;
            parts_->counters.connect_failures.fetch_add(1, std::memory_order_relaxed);
            drop_link();
        } else {
            become_connected("connected", parts_->counters.connects);
            on_disconnect_ = std::move(on_disconnect);
            link = std::move(link_);
            config = stream_config(true);
        }
    }
    if (!link) {
        qp->end(core::End::not_made);
        return fail(Status::connection_aborted, "complete_connect: the peer gave up",
                    "connect again, with another connector and queue pair");
    }
    auto pending = std::make_shared<core::Operation>();
    qp->mark_connected();
    pending->complete(hand_over(*qp, std::move(link), config));
    return pending;
}

// The first bytes that we send: they fit a fresh socket's buffer.
bool Connector::send_reply() {
    const auto out = handshake_->poll_transmit();
    const iovec piece{const_cast<std::byte*>(out.data()), out.size()};
    const LinkResult sent = link_->write(&piece, 1, true);
    if (sent.kind != LinkResult::Kind::moved || sent.size != out.size()) return false;
    handshake_->handle_sent(sent.size);
    return true;
}

core::Pending Connector::start_accept(std::shared_ptr<core::QueuePair> qp,
                                      core::ConnectParameters parameters,
                                      OnDisconnect on_disconnect) {
    const core::AdapterInfo& info = qp->pd()->info();
    parameters.inbound_read_limit =
        std::min(parameters.inbound_read_limit, info.max_inbound_read_limit);
    parameters.outbound_read_limit =
        std::min(parameters.outbound_read_limit, info.max_outbound_read_limit);
    std::unique_ptr<Link> link;
    std::shared_ptr<QueuePair> mine;
    std::shared_ptr<core::Operation> pending;
    iwarp::ConnectionConfig config;
    {
        const base::Lock lock(mutex_);
        if (is_closed() || state_ != State::incoming) {
            return core::wrong_connector_state("accept", state_,
                                               "accept a connector from Listener, once");
        }
        pending = std::make_shared<core::Operation>();
        auto claimed = claim(qp, parameters);
        if (!claimed) return Unexpected{claimed.error()};
        mine = *claimed;
        bool can_reply = link_ && !is_void();
        if (can_reply) {
            // What takes memory comes before the reply, which cannot be taken back.
            parts_->progress->set_deadline(std::static_pointer_cast<Connector>(shared_from_this()),
                                           now() + parameters.timeout);
            const bool crc = wants_crc(parameters, parts_->options, *local_, *peer_);
            static_cast<void>(handshake_->accept(offer_of(parameters, crc)));  // length was checked
            can_reply = send_reply();
        }
        if (can_reply) {
            const iwarp::Agreement& agreement = handshake_->agreement();
            data_->inbound_read_limit = agreement.ird;
            data_->outbound_read_limit = agreement.ord;
            qp_ = mine;
            state_ = State::completing;
            on_disconnect_ = std::move(on_disconnect);
            operation_ = pending;
            parts_->progress->remove(*this, link_->descriptor());
            link = std::move(link_);
            config = stream_config(false);
        } else {
            parts_->progress->clear_deadline(*this);
            if (link_) static_cast<void>(withdraw());  // the error tells it
            state_ = State::disconnected;
            mine->unreserve();
            return fail(Status::connection_aborted, "accept: " + peer_->text() + " gave up",
                        "nothing is left to accept; wait for the next request");
        }
    }
    static_cast<void>(hand_over(*mine, std::move(link), config));  // completes the operation
    return pending;
}

void Connector::answer_reject(const std::vector<std::byte>& private_data) {
    static_cast<void>(handshake_->reject(private_data));
    static_cast<void>(send_reply());
    drop_link();
}

Expected<void> Connector::reject(std::vector<std::byte> private_data) {
    if (private_data.size() > kMaxPrivateData) {
        return fail(Status::invalid_buffer_size,
                    "reject: private_data has " + std::to_string(private_data.size()) +
                        " bytes; at most " + std::to_string(kMaxPrivateData) + " fit",
                    "see adapter.info");
    }
    std::shared_ptr<QueuePair> unused;
    bool is_aborted = false;
    {
        const base::Lock lock(mutex_);
        if (is_closed() || (state_ != State::incoming && state_ != State::accepted)) {
            return core::wrong_connector_state("reject", state_,
                                               "reject a request, or an answer to connect()");
        }
        if (state_ == State::accepted) {
            is_aborted = peer_is_gone();
            refuse_answer();
        } else if (!link_ || is_void()) {
            is_aborted = true;
            if (link_) static_cast<void>(withdraw());  // the error tells it
        } else {
            parts_->progress->remove(*this, link_->descriptor());
            answer_reject(private_data);
        }
        state_ = State::disconnected;
        unused = std::exchange(qp_, nullptr);
        if (unused) unused->unreserve();
    }
    if (is_aborted) return fail(Status::connection_aborted, "reject: the peer had given up");
    return {};
}

}  // namespace ndv::soft

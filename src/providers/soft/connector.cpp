// SPDX-License-Identifier: Apache-2.0
// How a soft connector makes its connection, answers, and hears of its stream. Its mutex is never
// held while the queue pair steps.
#include "providers/soft/connector.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <new>
#include <system_error>
#include <utility>

#include "base/shortage.hpp"
#include "providers/soft/faulty_link.hpp"

namespace ndv::soft {
namespace {

std::vector<std::byte> copy_of(std::span<const std::byte> bytes) {
    return {bytes.begin(), bytes.end()};
}

// Bit errors between hosts pass TCP's checksum at times, and so do those on demand.
bool wants_crc(const core::ConnectParameters& parameters, const AdapterParts& parts,
               const core::SocketAddress& local, const core::SocketAddress& peer) {
    if (parameters.crc) return *parameters.crc;
    if (parts.options.crc) return *parts.options.crc;
    return parts.link_faults() || !is_one_host(local, peer);
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

// A passive end of this host answers a hello at once, or refuses it. One that stands still is not
// waited for longer.
constexpr Time kOfferTime = std::chrono::seconds(2);

}  // namespace

// A hello to a passive end in another process, and the wait for its offer.
class Approach final : public Member {
public:
    Approach(std::shared_ptr<Progress> progress, std::weak_ptr<Connector> connector,
             base::Descriptor pair)
        : progress_(std::move(progress)),
          connector_(std::move(connector)),
          pair_(std::move(pair)) {}
    ~Approach() override {
        if (made_in_ != base::fork_generation()) return;  // the thread that had its mutex is gone
        progress_->clear_deadline(*this);
        if (pair_) progress_->remove(*this, pair_.get());
    }
    [[nodiscard]] int descriptor() const { return pair_.get(); }

    void on_ready() override {
        progress_->remove(*this, pair_.get());
        if (const auto connector = connector_.lock()) connector->on_offer(std::move(pair_));
    }
    void on_deadline() override {
        if (const auto connector = connector_.lock()) connector->on_offer({});
    }
    [[nodiscard]] std::uint32_t wanted() const override { return EPOLLIN; }

private:
    const std::shared_ptr<Progress> progress_;
    const std::weak_ptr<Connector> connector_;
    const unsigned made_in_ = base::fork_generation();
    base::Descriptor pair_;  // the progress thread's
};

Connector::Connector(std::shared_ptr<AdapterParts> parts)
    : core::Connector(State::idle, *parts->progress, parts->counters, parts->limits),
      parts_(std::move(parts)),
      is_active_side_(true) {}

Connector::Connector(std::shared_ptr<AdapterParts> parts, std::unique_ptr<Link> link,
                     const iwarp::Handshake& handshake)
    : core::Connector(State::incoming, *parts->progress, parts->counters, parts->limits),
      parts_(std::move(parts)),
      is_active_side_(false),
      link_(std::move(link)),
      handshake_(handshake) {
    const auto known = [](std::uint16_t limit, std::uint32_t most) {
        return limit == iwarp::MpaEnhanced::kNoNegotiation ? most
                                                           : std::min<std::uint32_t>(limit, most);
    };
    const core::AdapterInfo& info = parts_->limits;
    data_ = core::ConnectionData{known(handshake.peer_ord(), info.max_inbound_read_limit),
                                 known(handshake.peer_ird(), info.max_outbound_read_limit),
                                 copy_of(handshake.private_data())};
    local_ = link_->local_address();
    peer_ = link_->peer_address();
}

Connector::~Connector() {
    if (!is_foreign()) close();
}

// ---- active side ----------------------------------------------------------------------------

Expected<void> Connector::do_connect(const core::ConnectParameters& parameters) {
    if (auto opened = open_socket(parameters); !opened) return opened;
    // connect() has chosen the socket's address.
    const bool crc = wants_crc(parameters, *parts_, link_->local_address(), parameters.peer);
    handshake_ = iwarp::Handshake::initiator(offer_of(parameters, crc));
    strike(State::connecting);
    is_tcp_connected_ = false;
    watch_for(EPOLLOUT);
    return parts_->progress->add(std::static_pointer_cast<Connector>(shared_from_this()),
                                 link_->descriptor());
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
    std::optional<core::SocketAddress> named =
        parameters.local ? parameters.local : parts_->address;
    if (parameters.endpoint) {
        const auto mine = std::dynamic_pointer_cast<SharedEndpoint>(parameters.endpoint);
        if (!mine || mine->is_closed()) {
            return fail(mine ? Status::file_forced_closed : Status::invalid_parameter,
                        "connect: the shared endpoint is closed, or of another adapter");
        }
        held_address_ = mine->claim();
        named = mine->local_address();
        const int on = 1;
        static_cast<void>(::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
    }
    if (named) {
        const core::SocketAddress& local = *named;
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
        const bool is_bound = named && named->port() != 0;
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
    link_ = parts_->make_link(std::move(socket), true);
    return {};
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
                apply(core::Input::failed, after,
                      fail(Status::insufficient_resources, "out of memory", {}, ENOMEM));
            }
        }
        if (state_ == State::incoming && link_ && is_void()) note_withdrawn(after);
    }
    after.run();
}

void Connector::advance_connect(Aftermath& after) {
    if (!is_tcp_connected_) {
        if (const int os_error = link_->take_error(); os_error != 0) {
            const Status status = status_of(os_error);
            apply(core::Input::failed, after,
                  fail(status,
                       "connect to " + peer_->text() +
                           " failed: " + std::string(status_meaning(status)),
                       os_error == ECONNREFUSED ? "is the listener running?" : "", os_error));
            return;
        }
        is_tcp_connected_ = true;
        link_->fit(parts_->local_buffers);
        local_ = link_->local_address();
    }
    drive_handshake(after);
}

void Connector::drive_handshake(Aftermath& after) {
    while (handshake_->outcome() == iwarp::Handshake::Outcome::pending) {
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
            watch_for(is_reading ? EPOLLIN : EPOLLOUT);
            return;
        }
        if (result.kind != LinkResult::Kind::moved) {
            const Status status = result.kind == LinkResult::Kind::end ? Status::connection_aborted
                                                                       : status_of(result.os_error);
            apply(core::Input::failed, after,
                  fail(status,
                       "connect: " + peer_->text() +
                           " closed the connection before it answered the MPA request",
                       "is it an RDMA listener, and is it accepting?", result.os_error));
            return;
        }
    }
    take_answer(after);
}

void Connector::take_answer(Aftermath& after) {
    const iwarp::Agreement agreement = handshake_->agreement();
    data_ = core::ConnectionData{agreement.ird, agreement.ord, copy_of(handshake_->private_data())};
    if (handshake_->outcome() == iwarp::Handshake::Outcome::agreed) {
        unwatch();
        strike(State::accepted);
        if (!approach()) apply(core::Input::answered, after);
    } else {
        apply(core::Input::failed, after, handshake_failure(handshake_->outcome(), peer_->text()));
    }
}

// False: there is nothing to wait for.
bool Connector::approach() {
    if (!may_be_direct()) return false;
    if (const auto offer = Meeting::find(*link_)) {
        offer->greet();
        return false;
    }
    if (!parts_->table->is_shared() || !is_one_host(*local_, *peer_)) return false;
    base::Descriptor pair = say_hello(*link_);
    if (!pair) return false;
    const auto self = std::static_pointer_cast<Connector>(shared_from_this());
    approach_ = std::make_shared<Approach>(parts_->progress, self, std::move(pair));
    if (!parts_->progress->add(approach_, approach_->descriptor())) {
        approach_.reset();
        return false;
    }
    parts_->progress->set_deadline(approach_, now() + kOfferTime);
    return true;
}

void Connector::on_offer(base::Descriptor pair) {
    Aftermath after;
    std::shared_ptr<Approach> done;
    {
        const base::Lock lock(mutex_);
        done = std::move(approach_);
        if (!done || state_ != State::connecting) return;
        try {
            if (pair) {
                meeting_ = Meeting::take_offer(std::move(pair), parts_->table, parts_->progress,
                                               parts_->acquaintance);
            }
            apply(core::Input::answered, after);
        } catch (const std::bad_alloc&) {
            apply(core::Input::failed, after,
                  fail(Status::insufficient_resources, "out of memory", {}, ENOMEM));
        }
    }
    after.run();
}

Expected<void> Connector::do_complete() {
    if (is_peer_there()) return {};
    return fail(Status::connection_aborted, "complete_connect: the peer gave up",
                "connect again, with another connector and queue pair");
}

// ---- passive side ---------------------------------------------------------------------------

void Connector::watch() {
    const base::Lock lock(mutex_);
    if (state_ != State::incoming || !link_) return;
    strike(State::incoming);
    // Looks at the interfaces of this host, which no stranger is worth.
    link_->fit(parts_->local_buffers);
    watch_for(EPOLLIN);
    // Unwatched it is looked at when it is answered.
    static_cast<void>(parts_->progress->add(std::static_pointer_cast<Connector>(shared_from_this()),
                                            link_->descriptor()));
}

// Passive: nothing may follow a request before its reply: bytes or an end mean that it is void, and
// nothing of it is kept but what it said.
bool Connector::is_void() const { return link_->peek().kind != LinkResult::Kind::would_block; }

// Active: bytes may wait, the end may not.
bool Connector::is_peer_there() const {
    const LinkResult::Kind found = link_->peek().kind;
    return found == LinkResult::Kind::moved || found == LinkResult::Kind::would_block;
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

Expected<void> Connector::do_accept(const core::ConnectParameters& parameters) {
    bool can_reply = !is_void();
    if (can_reply) {
        const bool crc = wants_crc(parameters, *parts_, *local_, *peer_);
        static_cast<void>(handshake_->accept(offer_of(parameters, crc)));  // length was checked
        // Before the peer can look for it.
        if (may_be_direct()) {
            meeting_ = Meeting::offer(*link_, static_cast<QueuePair&>(*qp_).reach(),
                                      parts_->progress, parts_->acquaintance);
        }
        can_reply = send_reply();
    }
    if (!can_reply) {
        return fail(Status::connection_aborted, "accept: " + peer_->text() + " gave up",
                    "nothing is left to accept; wait for the next request");
    }
    const iwarp::Agreement& agreement = handshake_->agreement();
    data_->inbound_read_limit = agreement.ird;
    data_->outbound_read_limit = agreement.ord;
    strike(State::completing);
    unwatch();
    return {};
}

// ---- both -----------------------------------------------------------------------------------

iwarp::ConnectionConfig Connector::stream_config() const {
    const iwarp::Agreement& agreement = handshake_->agreement();
    iwarp::ConnectionConfig config;
    config.is_initiator = is_active_side_;
    config.crc = agreement.crc;
    config.rtr = agreement.rtr;
    config.ird = agreement.ird;
    config.ord = agreement.ord;
    config.wakes_peer = is_active_side_;
    config.seed = parts_->seed ^ (id() * 0x9E3779B97F4A7C15ULL);
    return config;
}

// What goes by memory shows in no capture and is in no frame.
bool Connector::may_be_direct() const {
    const iwarp::Agreement& agreement = handshake_->agreement();
    return parts_->options.direct != core::Direct::off && !agreement.crc &&
           !parts_->link_faults() && agreement.rtr == iwarp::RtrKind::none;
}

const char* Connector::do_transport_reason() const {
    const iwarp::Agreement& agreement = handshake_->agreement();
    const auto& qp = static_cast<const QueuePair&>(*qp_);
    if (qp.is_direct()) {
        return qp.reaches_all() ? ""
                                : "the kernel copies nothing between the two processes: what is "
                                  "not of alloc_array is carried";
    }
    if (parts_->options.direct == core::Direct::off) return "direct is off here";
    if (parts_->capture) return "a capture sees frames only";
    if (parts_->link_faults()) return "faults strike frames";
    if (agreement.crc) return "CRC is of frames";
    if (agreement.rtr != iwarp::RtrKind::none) return "peer-to-peer mode is of frames";
    if (!is_one_host(*local_, *peer_)) return "the peer is on another host";
    return "the peer does not offer memory: it is another program, of another user or namespace, "
           "or has it off";
}

// The stream belongs to the queue pair from here on, unless it cannot be had.
Expected<void> Connector::do_open() {
    std::shared_ptr<core::QueuePair> qp;
    std::unique_ptr<Link> link;
    iwarp::ConnectionConfig config;
    std::shared_ptr<Meeting> meeting;
    {
        const base::Lock lock(mutex_);
        if (!link_ || !qp_) return fail(Status::cancelled, "the connector was closed");
        qp = qp_;
        meeting = std::move(meeting_);
        if (is_active_side_ && !meeting && may_be_direct()) meeting = Meeting::find(*link_);
        if (is_active_side_) strike(State::connected);
        link = std::move(link_);
        config = stream_config();
    }
    return static_cast<QueuePair&>(*qp).attach(
        std::move(link), config, std::static_pointer_cast<Connector>(shared_from_this()),
        std::move(meeting));
}

void Connector::unwatch() {
    if (link_) parts_->progress->remove(*this, link_->descriptor());
    approach_.reset();
}

bool Connector::do_goodbye(State state, std::span<const std::byte> private_data) {
    if (!link_) return true;  // the queue pair has it, and ends it
    if (state != State::accepted && state != State::incoming) return true;  // it was to have it
    if (state == State::accepted) {
        const bool is_there = is_peer_there();
        // The stream is open as far as MPA goes. An end in order is that of a connection which was
        // used, or could have been; a reset says that it never was.
        link_->reset_at_close();
        link_.reset();
        return is_there;
    }
    if (is_void()) return false;
    unwatch();
    static_cast<void>(handshake_->reject(private_data));
    static_cast<void>(send_reply());
    link_->shut_write();
    parts_->progress->linger(std::move(link_), Progress::Peer::stranger);
    return true;
}

// Faults: a state begins, or is about to.
void Connector::strike(State state) {
    const std::shared_ptr<core::Faults> faults = parts_->link_faults();
    if (!faults) return;
    if (link_) passage_ = static_cast<const FaultyLink&>(*link_).passage();
    const auto passage = passage_.lock();
    if (passage && faults->takes_reset(state)) passage->reset();
}

void Connector::on_heard() {
    handle(core::Input::established);
    const base::Lock lock(mutex_);
    if (!is_active_side_ && state_ == State::connected) strike(State::connected);
}

void Connector::on_drained() {
    {
        const base::Lock lock(mutex_);
        strike(State::disconnecting);
    }
    note_drained();
}

std::shared_ptr<void> Connector::do_let_go() {
    if (!link_) return nullptr;
    unwatch();
    // A Terminate of ours, or a stream that was agreed on, is worth a graceful end; an attempt that
    // got no answer is not.
    if (handshake_ && (handshake_->has_sent_terminate() ||
                       handshake_->outcome() == iwarp::Handshake::Outcome::agreed)) {
        link_->shut_write();
        parts_->progress->linger(std::move(link_), Progress::Peer::known);
    }
    link_.reset();
    return nullptr;
}

bool Connector::on_peer_closed() {
    Aftermath after;
    bool is_heard = false;
    {
        const base::Lock lock(mutex_);
        is_heard = note_peer_closed(after);
    }
    after.run();
    return is_heard;
}

void Connector::on_over(bool is_failure, int os_error) {
    Aftermath after;
    {
        const base::Lock lock(mutex_);
        const core::Detail why = qp_ ? qp_->cause() : core::Detail::of(core::End::closed);
        core::Input input =
            is_failure || why.is(core::End::overrun) ? core::Input::broken : core::Input::flushed;
        if (why.is(core::End::closed)) {
            input = core::Input::queue_pair_closed;
        } else if (state_ == State::completing) {
            input = why.is(core::End::flushed) ? core::Input::flushed : core::Input::gave_up;
        }
        apply(input, after, {}, os_error);
    }
    after.run();
}

}  // namespace ndv::soft

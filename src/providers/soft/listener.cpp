// SPDX-License-Identifier: Apache-2.0
// Accepting TCP connections and their MPA requests.
#include "providers/soft/listener.hpp"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <new>
#include <utility>

namespace ndv::soft {
namespace {

constexpr int kBacklog = 1024;              // of TCP; the kernel caps it at somaxconn
constexpr std::size_t kMaxIncoming = 1024;  // strangers in start-up at once
// Of the process's descriptors, so many parts for strangers in start-up, as many for requests that
// wait for their taker: the rest serves those who were taken.
constexpr std::size_t kPart = 4;
constexpr Time kRequestTime = std::chrono::seconds(10);
constexpr Time kOutOfDescriptors = std::chrono::milliseconds(50);
constexpr int kAcceptBatch = 64;

[[nodiscard]] std::size_t most_requests() {
    return part_of_descriptors(kPart, core::Listener::kMostRequests);
}

void set_reuse(int fd, int is_on) {
    static_cast<void>(::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &is_on, sizeof is_on));
}

// Others cannot take the port of a listening socket, nor, without reuse, that of a paused one.
bool start_listening(int fd) {
    set_reuse(fd, 1);
    const bool is_listening = ::listen(fd, kBacklog) == 0;
    set_reuse(fd, 0);
    return is_listening;
}

}  // namespace

// A stranger between TCP's accept and a whole MPA request.
class Incoming final : public Member {
public:
    Incoming(std::shared_ptr<AdapterParts> parts, std::weak_ptr<Listener> listener,
             std::unique_ptr<Link> link)
        : parts_(std::move(parts)),
          listener_(std::move(listener)),
          link_(std::move(link)),
          descriptor_(link_->descriptor()),
          handshake_(iwarp::Handshake::responder()) {
        // relaxed, as below: see its declaration.
        parts_->starting_connections.fetch_add(1, std::memory_order_relaxed);
    }
    ~Incoming() override { parts_->starting_connections.fetch_sub(1, std::memory_order_relaxed); }

    // Any thread, at any time: the listener may close while the start-up ends.
    [[nodiscard]] int descriptor() const { return descriptor_; }
    [[nodiscard]] std::uint32_t wanted() const override { return EPOLLIN; }

    void on_ready() override {
        try {
            read();
        } catch (const std::bad_alloc&) {
            // A part of what it said is lost.
            leave();
            if (const auto listener = listener_.lock()) listener->forget(id());
        }
    }

    void on_deadline() override { leave(); }

    // On the progress thread, like everything that touches link_.
    void leave() {
        if (!link_) return;
        parts_->counters.connect_failures.fetch_add(1, std::memory_order_relaxed);  // a number
        parts_->progress->remove(*this, descriptor());
        parts_->progress->clear_deadline(*this);
        link_.reset();
        if (const auto listener = listener_.lock()) listener->forget(id());
    }

private:
    void read() {
        using Outcome = iwarp::Handshake::Outcome;
        while (link_) {
            const auto in = handshake_.poll_receive();
            const iovec piece{in.data(), in.size()};
            const LinkResult result = link_->read(&piece, 1);
            if (result.kind == LinkResult::Kind::would_block) return;
            if (result.kind != LinkResult::Kind::moved) {
                leave();
                return;
            }
            handshake_.handle_received(result.size);
            if (handshake_.outcome() == Outcome::request_received) {
                const auto listener = listener_.lock();
                parts_->progress->remove(*this, descriptor());
                parts_->progress->clear_deadline(*this);
                if (listener) listener->handle_request(id(), std::move(link_), handshake_);
                return;
            }
            // Markers are refused in MPA's own words; anything else learns nothing from us.
            if (const auto out = handshake_.poll_transmit(); !out.empty()) {
                const iovec reply{const_cast<std::byte*>(out.data()), out.size()};
                static_cast<void>(link_->write(&reply, 1, true));
                leave();
                return;
            }
            if (handshake_.outcome() != Outcome::pending) {
                leave();
                return;
            }
        }
    }

    const std::shared_ptr<AdapterParts> parts_;
    const std::weak_ptr<Listener> listener_;
    std::unique_ptr<Link> link_;
    const int descriptor_;
    iwarp::Handshake handshake_;
};

Listener::Listener(std::shared_ptr<AdapterParts> parts, std::weak_ptr<core::Adapter> adapter)
    : core::Listener(std::move(adapter)), parts_(std::move(parts)) {}

Listener::~Listener() {
    if (!is_foreign()) close();
}

Expected<core::Listener::Bound> Listener::do_listen(const core::SocketAddress& address) {
    auto socket = bound_socket(address, "listen on");
    if (!socket) return Unexpected{socket.error()};
    auto claim = parts_->claims.take(local_address_of(socket->get()));
    if (!claim) {
        return fail(Status::sharing_violation,
                    "listen on " + address.text() + ": the port is taken",
                    "connections that a closed listener accepted, or a shared endpoint, hold it: "
                    "close them, or choose another port");
    }
    if (!start_listening(socket->get())) {
        return fail(status_of(errno), "listen on " + address.text() + " failed", {}, errno);
    }
    const auto self = std::static_pointer_cast<Listener>(shared_from_this());
    if (auto added = parts_->progress->add(self, socket->get()); !added) {
        return Unexpected{added.error()};
    }
    socket_ = std::move(*socket);
    return Bound{local_address_of(socket_.get()), std::move(claim)};
}

// acquire: pairs with on_ready() and on_deadline(), which arm afterwards.
std::uint32_t Listener::wanted() const {
    return is_out_of_descriptors_.load(std::memory_order_acquire) ? 0U : std::uint32_t{EPOLLIN};
}

void Listener::on_ready() {
    for (int i = 0; i < kAcceptBatch; ++i) {
        int fd = -1;
        int os_error = 0;
        {
            const base::Lock lock(mutex_);
            if (!socket_ || is_shut_) return;
            fd = ::accept4(socket_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
            os_error = errno;
            // Linux looks for a free descriptor first, and then for a connection.
            pollfd waiting{socket_.get(), POLLIN, 0};
            if (fd < 0 && ::poll(&waiting, 1, 0) == 0) return;
        }
        if (fd >= 0) {
            begin_start_up(base::Descriptor(fd));
            continue;
        }
        if (status_of(os_error) != Status::insufficient_resources) break;
        if (make_room()) continue;
        // The queue stays readable: a short pause instead of a busy loop.
        is_out_of_descriptors_.store(true, std::memory_order_release);  // pairs with wanted()
        break;
    }
    // relaxed: this thread's own.
    if (is_out_of_descriptors_.load(std::memory_order_relaxed)) {
        parts_->progress->set_deadline(std::static_pointer_cast<Listener>(shared_from_this()),
                                       now() + kOutOfDescriptors);
    }
}

// For another one, when the process has no descriptor left: the oldest goes of those that only
// linger, of those without a request, or else of those whose connection has ended.
bool Listener::make_room() {
    if (parts_->progress->drop_oldest(Progress::Peer::stranger)) return true;
    std::shared_ptr<Incoming> oldest;
    {
        const base::Lock lock(mutex_);
        if (!incoming_.empty()) oldest = incoming_.begin()->second;
    }
    if (!oldest) return parts_->progress->drop_oldest(Progress::Peer::known);
    oldest->leave();
    return true;
}

void Listener::on_deadline() {
    const base::Lock lock(mutex_);
    is_out_of_descriptors_.store(false, std::memory_order_release);  // pairs with wanted()
    if (socket_) parts_->progress->arm(*this);
}

void Listener::begin_start_up(base::Descriptor socket) {
    prepare_socket(socket.get(), parts_->options.keepalive_s);
    set_reuse(socket.get(), 1);  // what the listening socket gave up
    const auto self = std::static_pointer_cast<Listener>(shared_from_this());
    const auto incoming =
        std::make_shared<Incoming>(parts_, self, parts_->make_link(std::move(socket), false));
    // Over the cap a stranger is turned away at once; its descriptor is closed on return.
    if (!takes_requests(most_requests())) return;
    std::shared_ptr<Incoming> oldest;
    {
        const base::Lock lock(mutex_);
        if (!socket_) return;  // closed meanwhile
        // The one that has been silent the longest makes room: a flood of them keeps no peer out.
        if (incoming_.size() >= part_of_descriptors(kPart, kMaxIncoming))
            oldest = incoming_.begin()->second;
        incoming_[incoming->id()] = incoming;
    }
    if (oldest) oldest->leave();
    try {
        if (parts_->progress->add(incoming, incoming->descriptor())) {
            parts_->progress->set_deadline(incoming, now() + kRequestTime);
            return;
        }
    } catch (const std::bad_alloc&) {
        // Without a deadline it may not stay.
    }
    incoming->leave();
}

void Listener::handle_request(std::uint64_t id, std::unique_ptr<Link> link,
                              const iwarp::Handshake& handshake) {
    const auto connector = std::make_shared<Connector>(parts_, std::move(link), handshake);
    forget(id);
    // The connector closes: a reject. Many may have come while there was room.
    if (!takes_requests(most_requests())) return;
    connector->watch();
    admit(connector);
}

void Listener::forget(std::uint64_t id) {
    std::shared_ptr<Incoming> gone;
    const base::Lock lock(mutex_);
    const auto found = incoming_.find(id);
    if (found == incoming_.end()) return;
    gone = std::move(found->second);
    incoming_.erase(found);
}

// Linux answers RST while a listening socket is shut for reading, and keeps the port. Such a socket
// always reports a hang-up, so it leaves the set meanwhile.
void Listener::do_pause(bool pause) {
    if (!socket_) return;
    is_shut_ = pause;
    if (pause) {
        parts_->progress->remove(*this, socket_.get());
        ::shutdown(socket_.get(), SHUT_RD);
    } else if (start_listening(socket_.get())) {
        // Fails when the adapter is closing, and then this listener is, too.
        static_cast<void>(parts_->progress->add(
            std::static_pointer_cast<Listener>(shared_from_this()), socket_.get()));
    }
}

void Listener::do_stop() {
    std::map<std::uint64_t, std::shared_ptr<Incoming>> strangers;
    {
        const base::Lock lock(mutex_);
        if (socket_) parts_->progress->remove(*this, socket_.get());
        parts_->progress->clear_deadline(*this);
        socket_.reset();
        strangers.swap(incoming_);
    }
    for (const auto& [id, stranger] : strangers) {
        parts_->progress->remove(*stranger, stranger->descriptor());
        parts_->progress->clear_deadline(*stranger);
    }
}

}  // namespace ndv::soft

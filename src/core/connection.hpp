// SPDX-License-Identifier: Apache-2.0
// Connections: addresses, pending operations, connectors and listeners. Source: NDKPI connector
// and listener dispatch.
#pragma once

#include <sys/socket.h>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/expected.hpp"
#include "base/live.hpp"
#include "base/mutex.hpp"
#include "core/object.hpp"

namespace ndv::core {

class QueuePair;

// A numeric IPv4 or IPv6 address with a port.
struct SocketAddress {
    sockaddr_storage storage{};
    socklen_t length = 0;

    [[nodiscard]] static Expected<SocketAddress> parse(const std::string& host, std::uint16_t port);
    [[nodiscard]] std::string host() const;
    [[nodiscard]] std::uint16_t port() const;
    void set_port(std::uint16_t port);
    [[nodiscard]] std::string text() const;  // "host:port", "[v6]:port"
    [[nodiscard]] const sockaddr* raw() const {
        return reinterpret_cast<const sockaddr*>(&storage);
    }
    [[nodiscard]] sockaddr* raw() { return reinterpret_cast<sockaddr*>(&storage); }
    [[nodiscard]] int family() const { return storage.ss_family; }
};

// A call that waits for a peer. Completed once, from any thread.
class Operation : base::Live<base::LiveKind::operation> {
public:
    // False: the time is over, the operation goes on.
    [[nodiscard]] bool wait(std::chrono::nanoseconds timeout);
    [[nodiscard]] bool is_done() const;
    // After is_done(): the outcome.
    [[nodiscard]] Expected<void> outcome() const;
    // Runs once when done, at once if it is; on the thread that completes. One at most.
    void set_on_done(std::function<void()> function);
    void complete(Expected<void> outcome);

private:
    mutable base::Mutex mutex_;
    std::condition_variable done_;
    bool is_done_ NDV_GUARDED_BY(mutex_) = false;
    Expected<void> outcome_ NDV_GUARDED_BY(mutex_);
    std::function<void()> on_done_ NDV_GUARDED_BY(mutex_);
};

// A local address that connectors to different peers connect from. It is taken until it is closed
// and the last of those connectors, too.
class SharedEndpoint : public Object, base::Live<base::LiveKind::shared_endpoint> {
public:
    [[nodiscard]] virtual SocketAddress local_address() const = 0;
};

struct ConnectParameters {
    std::optional<SocketAddress> local;        // active side; its port may be 0
    std::shared_ptr<SharedEndpoint> endpoint;  // active side: in place of `local`
    SocketAddress peer;                        // active side
    std::uint32_t inbound_read_limit = 16;
    std::uint32_t outbound_read_limit = 16;
    std::vector<std::byte> private_data;
    std::optional<bool> crc;    // none: as the adapter was opened
    bool peer_to_peer = false;  // active side: ask for RFC 6581's peer-to-peer mode
    std::chrono::nanoseconds timeout = std::chrono::seconds(10);  // ends the attempt
};

struct ConnectionData {
    std::uint32_t inbound_read_limit = 0;
    std::uint32_t outbound_read_limit = 0;
    std::vector<std::byte> private_data;
};

enum class ConnectorState : std::uint8_t {
    idle,  // active, fresh, or an attempt failed
    connecting,
    accepted,    // active: the peer accepted; CompleteConnect or Reject must follow
    incoming,    // passive: Accept or Reject must follow
    completing,  // CompleteConnect or Accept under way
    connected,
    disconnecting,
    disconnected,
};

[[nodiscard]] const char* connector_state_name(ConnectorState state);
// The error of a call that the connector's state does not allow.
[[nodiscard]] Unexpected wrong_connector_state(const char* call, ConnectorState state,
                                               const char* hint);

// NDK's status for an errno of connect, bind or a stream.
[[nodiscard]] Status status_of(int os_error);

using Pending = Expected<std::shared_ptr<Operation>>;

class Connector : public Object, base::Live<base::LiveKind::connector> {
public:
    // Called at most once when the connection ends for any reason but a local disconnect or
    // close; from any thread.
    using OnDisconnect = std::function<void()>;

    [[nodiscard]] virtual Pending start_connect(std::shared_ptr<QueuePair> qp,
                                                ConnectParameters parameters) = 0;
    [[nodiscard]] virtual Pending start_complete_connect(OnDisconnect on_disconnect) = 0;
    [[nodiscard]] virtual Pending start_accept(std::shared_ptr<QueuePair> qp,
                                               ConnectParameters parameters,
                                               OnDisconnect on_disconnect) = 0;
    [[nodiscard]] virtual Expected<void> reject(std::vector<std::byte> private_data) = 0;
    // `timeout` ends the handshake (the connection is closed either way).
    [[nodiscard]] virtual Pending start_disconnect(std::chrono::nanoseconds timeout) = 0;
    // Gives up on a connect, complete_connect or accept that is under way: nothing of it remains.
    virtual void abandon() = 0;

    [[nodiscard]] Expected<ConnectionData> data() const;
    [[nodiscard]] Expected<SocketAddress> local_address() const;
    [[nodiscard]] Expected<SocketAddress> peer_address() const;
    [[nodiscard]] ConnectorState state() const;

    // Passive, until it is answered: the peer has taken its request back. Accept and reject fail
    // with CONNECTION_ABORTED then.
    [[nodiscard]] bool is_withdrawn() const;
    // Called once when that happens, from any thread, or at once when it has; not when an answer
    // finds it out. One at most; an empty one ends it.
    void set_on_withdrawn(std::function<void()> function);

protected:
    // The providers': what every connector has, and the mutex that guards the rest of theirs, too.
    explicit Connector(ConnectorState state) : state_(state) {}
    // The request is withdrawn; returns what is to be called without the mutex.
    [[nodiscard]] std::function<void()> note_withdrawn() NDV_REQUIRES(mutex_) {
        is_withdrawn_ = true;
        return std::exchange(on_withdrawn_, nullptr);
    }

    mutable base::Mutex mutex_;
    ConnectorState state_ NDV_GUARDED_BY(mutex_);
    std::optional<ConnectionData> data_ NDV_GUARDED_BY(mutex_);
    std::optional<SocketAddress> local_ NDV_GUARDED_BY(mutex_);
    std::optional<SocketAddress> peer_ NDV_GUARDED_BY(mutex_);

private:
    bool is_withdrawn_ NDV_GUARDED_BY(mutex_) = false;
    std::function<void()> on_withdrawn_ NDV_GUARDED_BY(mutex_);
};

// Requests that wait for whoever takes them: a listener's, of any provider.
class ConnectorQueue {
public:
    // Over this, requests are turned away (NDK has no backlog of its own). Those that were
    // withdrawn give way first.
    static constexpr std::size_t kMost = 1024;

    [[nodiscard]] bool is_full(std::size_t most = kMost);
    [[nodiscard]] std::size_t size() const;
    // Tells on_connect. False when full or closed: the connector was not taken over.
    [[nodiscard]] bool push(std::shared_ptr<Connector> connector);
    // Null when the time is over and no request came.
    [[nodiscard]] Expected<std::shared_ptr<Connector>> take(std::chrono::nanoseconds timeout);
    void set_on_connect(std::function<void()> function);
    // Ends every take(); returns the requests that nobody took. NDK: closing them is a reject.
    [[nodiscard]] std::list<std::shared_ptr<Connector>> close();

private:
    mutable base::Mutex mutex_;
    std::condition_variable available_;
    // No deque, which takes memory even for nothing: closing must not.
    std::list<std::shared_ptr<Connector>> waiting_ NDV_GUARDED_BY(mutex_);
    std::function<void()> on_connect_ NDV_GUARDED_BY(mutex_);
    bool is_closed_ NDV_GUARDED_BY(mutex_) = false;
};

class Listener : public Object, base::Live<base::LiveKind::listener> {
public:
    [[nodiscard]] virtual Expected<void> listen(const SocketAddress& address) = 0;
    // Null when the time is over and no request came.
    [[nodiscard]] virtual Expected<std::shared_ptr<Connector>> take_connector(
        std::chrono::nanoseconds timeout) = 0;
    // Called once per connector that becomes available to take_connector(); from any thread.
    virtual void set_on_connect(std::function<void()> function) = 0;
    virtual void control_connect_events(bool pause) = 0;
    [[nodiscard]] virtual Expected<SocketAddress> local_address() const = 0;
};

}  // namespace ndv::core

// SPDX-License-Identifier: Apache-2.0
// Socket addresses, operations, what all connectors have, and the queue of a listener.
#include "core/connection.hpp"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <utility>

namespace ndv::core {

Expected<SocketAddress> SocketAddress::parse(const std::string& host, std::uint16_t port) {
    SocketAddress out;
    auto* v4 = reinterpret_cast<sockaddr_in*>(&out.storage);
    if (inet_pton(AF_INET, host.c_str(), &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        out.length = sizeof *v4;
        return out;
    }
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&out.storage);
    const std::size_t percent = host.find('%');
    if (inet_pton(AF_INET6, host.substr(0, percent).c_str(), &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        out.length = sizeof *v6;
        if (percent == std::string::npos) return out;
        const std::string scope = host.substr(percent + 1);
        v6->sin6_scope_id = if_nametoindex(scope.c_str());
        if (v6->sin6_scope_id == 0) {  // a number, as getnameinfo() gives it
            const char* const end = scope.data() + scope.size();
            const auto [at, problem] = std::from_chars(scope.data(), end, v6->sin6_scope_id);
            std::array<char, IF_NAMESIZE> name{};
            if (problem != std::errc{} || at != end ||
                if_indextoname(v6->sin6_scope_id, name.data()) == nullptr) {
                v6->sin6_scope_id = 0;
            }
        }
        if (v6->sin6_scope_id != 0) return out;
        return fail(Status::invalid_address, "no network interface \"" + scope + "\"");
    }
    return fail(Status::invalid_address, "\"" + host + "\" is not a numeric address",
                "name a host as an IPv4 or IPv6 address here");
}

std::string SocketAddress::host() const {
    std::array<char, INET6_ADDRSTRLEN + 1 + IF_NAMESIZE> text{};
    if (family() == AF_INET) {
        const auto* v4 = reinterpret_cast<const sockaddr_in*>(&storage);
        inet_ntop(AF_INET, &v4->sin_addr, text.data(), text.size());
        return text.data();
    }
    const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&storage);
    inet_ntop(AF_INET6, &v6->sin6_addr, text.data(), text.size());
    std::string out = text.data();
    if (v6->sin6_scope_id != 0 && if_indextoname(v6->sin6_scope_id, text.data()) != nullptr) {
        out += "%";
        out += text.data();
    }
    return out;
}

std::uint16_t SocketAddress::port() const {
    if (family() == AF_INET) {
        return ntohs(reinterpret_cast<const sockaddr_in*>(&storage)->sin_port);
    }
    return ntohs(reinterpret_cast<const sockaddr_in6*>(&storage)->sin6_port);
}

void SocketAddress::set_port(std::uint16_t port) {
    if (family() == AF_INET) {
        reinterpret_cast<sockaddr_in*>(&storage)->sin_port = htons(port);
    } else {
        reinterpret_cast<sockaddr_in6*>(&storage)->sin6_port = htons(port);
    }
}

std::string SocketAddress::text() const {
    const bool is_v6 = family() == AF_INET6;
    std::string text = is_v6 ? "[" : "";
    return text.append(host()).append(is_v6 ? "]:" : ":").append(std::to_string(port()));
}

bool Operation::wait(std::chrono::nanoseconds timeout) {
    base::UniqueLock lock(mutex_);
    // A loop instead of a predicate: the analysis cannot look into lambdas.
    const auto until = std::chrono::steady_clock::now() + timeout;
    while (!is_done_) {
        if (done_.wait_until(lock.native(), until) == std::cv_status::timeout) break;
    }
    return is_done_;
}

bool Operation::is_done() const {
    const base::Lock lock(mutex_);
    return is_done_;
}

Expected<void> Operation::outcome() const {
    const base::Lock lock(mutex_);
    return outcome_;
}

void Operation::set_on_done(std::function<void()> function) {
    {
        const base::Lock lock(mutex_);
        if (!is_done_) {
            on_done_ = std::move(function);
            return;
        }
    }
    function();
}

void Operation::complete(Expected<void> outcome) {
    std::function<void()> on_done;
    {
        const base::Lock lock(mutex_);
        if (is_done_) return;
        is_done_ = true;
        outcome_ = std::move(outcome);
        on_done = std::move(on_done_);
        done_.notify_all();
    }
    if (on_done) on_done();
}

Status status_of(int os_error) {
    switch (os_error) {
        case ECONNREFUSED:
            return Status::connection_refused;
        case ECONNRESET:
        case EPIPE:
            return Status::connection_reset;
        case ENETUNREACH:
        case ENETDOWN:
            return Status::network_unreachable;
        case EHOSTUNREACH:
        case EHOSTDOWN:
            return Status::host_unreachable;
        case ETIMEDOUT:
            return Status::io_timeout;
        case EADDRINUSE:
            return Status::sharing_violation;
        case EADDRNOTAVAIL:
        case EAFNOSUPPORT:
            return Status::invalid_address;
        case EACCES:
        case EPERM:
            return Status::access_denied;
        case EMFILE:
        case ENFILE:
        case ENOBUFS:
        case ENOMEM:
            return Status::insufficient_resources;
        default:
            return Status::unsuccessful;
    }
}

Unexpected wrong_connector_state(const char* call, ConnectorState state, const char* hint) {
    return fail(Status::connection_invalid,
                std::string(call) + ": the connector is " + connector_state_name(state), hint);
}

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

bool ConnectorQueue::is_full(std::size_t most) {
    std::vector<std::shared_ptr<Connector>> gone;  // their ends need no lock of ours
    const base::Lock lock(mutex_);
    if (waiting_.size() < most) return false;
    for (auto& connector : waiting_) {
        if (connector->is_withdrawn()) gone.push_back(std::move(connector));
    }
    std::erase(waiting_, nullptr);
    return waiting_.size() >= most;
}

std::size_t ConnectorQueue::size() const {
    const base::Lock lock(mutex_);
    return waiting_.size();
}

bool ConnectorQueue::push(std::shared_ptr<Connector> connector) {
    std::function<void()> tell;
    {
        const base::Lock lock(mutex_);
        if (is_closed_ || waiting_.size() >= kMost) return false;
        tell = on_connect_;  // first: it may find no memory, and what waits has to be told
        waiting_.push_back(std::move(connector));
        available_.notify_one();
    }
    if (tell) tell();
    return true;
}

Expected<std::shared_ptr<Connector>> ConnectorQueue::take(std::chrono::nanoseconds timeout) {
    base::UniqueLock lock(mutex_);
    const auto until = std::chrono::steady_clock::now() + timeout;
    while (waiting_.empty()) {
        if (is_closed_) {
            return fail(Status::file_forced_closed, "get_connector: the listener is closed");
        }
        if (available_.wait_until(lock.native(), until) == std::cv_status::timeout) break;
    }
    if (waiting_.empty()) return std::shared_ptr<Connector>();
    std::shared_ptr<Connector> taken = std::move(waiting_.front());
    waiting_.pop_front();
    return taken;
}

void ConnectorQueue::set_on_connect(std::function<void()> function) {
    const base::Lock lock(mutex_);
    on_connect_ = std::move(function);
}

std::list<std::shared_ptr<Connector>> ConnectorQueue::close() {
    const base::Lock lock(mutex_);
    is_closed_ = true;
    on_connect_ = nullptr;
    available_.notify_all();
    return std::exchange(waiting_, {});
}

const char* connector_state_name(ConnectorState state) {
    switch (state) {
        case ConnectorState::idle:
            return "idle";
        case ConnectorState::connecting:
            return "connecting";
        case ConnectorState::accepted:
            return "accepted";
        case ConnectorState::incoming:
            return "incoming";
        case ConnectorState::completing:
            return "completing";
        case ConnectorState::connected:
            return "connected";
        case ConnectorState::disconnecting:
            return "disconnecting";
        case ConnectorState::disconnected:
            return "disconnected";
    }
    return "unknown";
}

}  // namespace ndv::core

// SPDX-License-Identifier: Apache-2.0
// The connector: one connection's calls, checked and worded once for all providers, and its life,
// which is core/establishment's table. A provider carries out acts (do_...) and reports what
// happens. Source: NDKPI connector dispatch.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/expected.hpp"
#include "base/live.hpp"
#include "base/mutex.hpp"
#include "core/address.hpp"
#include "core/establishment.hpp"
#include "core/object.hpp"
#include "core/operation.hpp"
#include "core/progress.hpp"

namespace ndv::core {

class QueuePair;
class SharedEndpoint;
struct AdapterInfo;

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

// Counters that every provider keeps, by the names of NDK's.
struct ConnectionCounters {
    std::atomic<std::uint64_t> connects{0};
    std::atomic<std::uint64_t> accepts{0};
    std::atomic<std::uint64_t> connect_failures{0};
    std::atomic<std::uint64_t> connection_errors{0};
    std::atomic<std::uint64_t> active_connections{0};

    [[nodiscard]] std::map<std::string, std::uint64_t> read() const;
};

class Connector : public Object, public Member, base::Live<base::LiveKind::connector> {
public:
    // Called at most once when the connection ends for any reason but a local disconnect or
    // close; from any thread.
    using OnDisconnect = std::function<void()>;

    // `qp` is of the connector's adapter.
    [[nodiscard]] Pending start_connect(std::shared_ptr<QueuePair> qp,
                                        ConnectParameters parameters);
    [[nodiscard]] Pending start_complete_connect(OnDisconnect on_disconnect);
    [[nodiscard]] Pending start_accept(std::shared_ptr<QueuePair> qp, ConnectParameters parameters,
                                       OnDisconnect on_disconnect);
    [[nodiscard]] Expected<void> reject(std::vector<std::byte> private_data);
    // `timeout` ends the handshake (the connection is closed either way).
    [[nodiscard]] Pending start_disconnect(std::chrono::nanoseconds timeout);
    // Gives up on a connect, complete_connect or accept that is under way, or has ended well while
    // its caller stopped waiting: nothing of it remains. Of a disconnect only the wait ends.
    void abandon() { handle(Input::abandon); }

    [[nodiscard]] Expected<ConnectionData> data() const;
    [[nodiscard]] Expected<SocketAddress> local_address() const;
    [[nodiscard]] Expected<SocketAddress> peer_address() const;
    // What carries the connection: a word of the provider's.
    [[nodiscard]] Expected<std::string> transport() const;
    // Why it is not a faster one of this provider's; empty: there is none.
    [[nodiscard]] Expected<std::string> transport_reason() const;
    [[nodiscard]] ConnectorState state() const;

    // Passive, until it is answered: the peer has taken its request back. Accept and reject fail
    // with CONNECTION_ABORTED then.
    [[nodiscard]] bool is_withdrawn() const;
    // Called once when that happens, from any thread, or at once when it has; not when an answer
    // finds it out. One at most; an empty one ends it.
    void set_on_withdrawn(std::function<void()> function);

    // Passive: the listener's address is taken until this is closed, too.
    void hold(std::shared_ptr<void> address);

    // Member. A provider that has a descriptor watched overrides the other two.
    void on_ready() override {}
    void on_deadline() final;
    [[nodiscard]] std::uint32_t wanted() const override { return 0; }

protected:
    // What is done after the mutex is given back: ending queue pairs, waking and notifying others.
    struct Aftermath {
        std::shared_ptr<QueuePair> to_flush;
        End why = End::none;  // of to_flush
        std::shared_ptr<QueuePair> to_give_back;
        std::shared_ptr<void> dropped;  // the provider's
        std::shared_ptr<Operation> operation;
        Expected<void> outcome;  // of the operation
        std::function<void()> notify;
        void run();
    };

    // The three outlive the connector.
    Connector(ConnectorState state, Progress& progress, ConnectionCounters& counters,
              const AdapterInfo& info)
        : state_(state), progress_(progress), counters_(counters), info_(info) {}

    // Takes the mutex, steps, and does what follows. `outcome`: of the operation under way, where
    // the provider knows more of a failure than its kind; `os_error` goes with core's own words.
    void handle(Input input, Expected<void> outcome = {}, int os_error = 0);
    // The same in three parts, for providers that hold the mutex. An input that the state does not
    // know changes nothing.
    void apply(Input input, Aftermath& after, Expected<void> outcome = {}, int os_error = 0)
        NDV_REQUIRES(mutex_);
    // The peer's end in order. False: nothing keeps what is posted, the queue pair flushes.
    [[nodiscard]] bool note_peer_closed(Aftermath& after) NDV_REQUIRES(mutex_);
    // After QueuePair::disconnect(): what was posted is out.
    void note_drained();
    // Passive: the peer has taken its request back.
    void note_withdrawn(Aftermath& after) NDV_REQUIRES(mutex_);

    // ---- acts of a provider ----
    // Optional: what it cannot do for these parameters, before anything begins.
    [[nodiscard]] virtual Expected<void> do_check(const ConnectParameters&) const { return {}; }
    // Begins an attempt; answered or failed is reported.
    [[nodiscard]] virtual Expected<void> do_connect(const ConnectParameters& parameters)
        NDV_REQUIRES(mutex_) = 0;
    // CONNECTION_ABORTED: the peer has left.
    [[nodiscard]] virtual Expected<void> do_complete() NDV_REQUIRES(mutex_) = 0;
    // Answers the request; established is reported. data_ gets the limits that are agreed on.
    [[nodiscard]] virtual Expected<void> do_accept(const ConnectParameters& parameters)
        NDV_REQUIRES(mutex_) = 0;
    [[nodiscard]] virtual const char* do_transport() const NDV_REQUIRES(mutex_) = 0;
    [[nodiscard]] virtual const char* do_transport_reason() const NDV_REQUIRES(mutex_) {
        return "";
    }
    [[nodiscard]] Expected<void> check_transport(const char* what) const NDV_REQUIRES(mutex_);
    // Optional: what begins the stream after complete or accept, and steps the queue pair.
    [[nodiscard]] virtual Expected<void> do_open() { return {}; }
    // Tells the peer that this side refuses or ends, from the state that it had. False: the peer
    // has left before.
    [[nodiscard]] virtual bool do_goodbye(ConnectorState state,
                                          std::span<const std::byte> private_data)
        NDV_REQUIRES(mutex_) = 0;
    // Gives up what belongs to the attempt or connection; what is returned goes without the mutex.
    [[nodiscard]] virtual std::shared_ptr<void> do_let_go() NDV_REQUIRES(mutex_) = 0;

    // Guards what the provider has, too.
    mutable base::Mutex mutex_;
    ConnectorState state_ NDV_GUARDED_BY(mutex_);
    std::optional<ConnectionData> data_ NDV_GUARDED_BY(mutex_);
    std::optional<SocketAddress> local_ NDV_GUARDED_BY(mutex_);
    std::optional<SocketAddress> peer_ NDV_GUARDED_BY(mutex_);
    std::shared_ptr<QueuePair> qp_ NDV_GUARDED_BY(mutex_);
    // What keeps the local address taken: the listener's claim, or the shared endpoint's.
    std::shared_ptr<void> held_address_ NDV_GUARDED_BY(mutex_);
    // It gave up, rejected or ended.
    bool has_peer_left_ NDV_GUARDED_BY(mutex_) = false;

private:
    [[nodiscard]] Expected<void> check_call(Input input) const NDV_REQUIRES(mutex_);
    [[nodiscard]] Expected<void> claim(Input input, const std::shared_ptr<QueuePair>& qp,
                                       ConnectParameters& parameters) NDV_REQUIRES(mutex_);
    [[nodiscard]] Expected<void> begin(Input input, const ConnectParameters& parameters)
        NDV_REQUIRES(mutex_);
    [[nodiscard]] Expected<void> open();
    [[nodiscard]] Expected<void> outcome_of(ConnectorState before, Input input, int os_error) const
        NDV_REQUIRES(mutex_);
    [[nodiscard]] std::shared_ptr<Member> self();
    void say_goodbye(ConnectorState before) NDV_REQUIRES(mutex_);
    void set_deadline(std::chrono::nanoseconds timeout) NDV_REQUIRES(mutex_);
    void do_close() final;

    Progress& progress_;
    ConnectionCounters& counters_;
    const AdapterInfo& info_;
    std::shared_ptr<Operation> operation_ NDV_GUARDED_BY(mutex_);
    Time deadline_ NDV_GUARDED_BY(mutex_){};  // the last one that was set
    OnDisconnect on_disconnect_ NDV_GUARDED_BY(mutex_);
    bool has_left_ NDV_GUARDED_BY(mutex_) = false;  // the peer was told
    bool is_withdrawn_ NDV_GUARDED_BY(mutex_) = false;
    std::function<void()> on_withdrawn_ NDV_GUARDED_BY(mutex_);
};

}  // namespace ndv::core

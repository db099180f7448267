// SPDX-License-Identifier: Apache-2.0
// A connected stream socket over a queue pair: both directions, their ends, and threads that wait.
//
// Progress. Of the threads that wait for the stream one leads: it sleeps in the completion queue
// and handles what arrives. The others follow: each sleeps on a condition variable of its own. A
// thread that leaves the gate wakes the followers whose wait is over, and one to lead when no
// thread leads any more. While no thread waits, the completion queue is armed, and the thread of
// the adapter that pushes a completion handles it.
// One gate guards everything and is held for microseconds: a large copy out of the ring happens
// outside it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/expected.hpp"
#include "base/live.hpp"
#include "base/shortage.hpp"
#include "core/adapter.hpp"
#include "core/object.hpp"
#include "stream/channel.hpp"
#include "stream/engine.hpp"
#include "stream/gate.hpp"
#include "stream/receiving.hpp"
#include "stream/sending.hpp"
#include "stream/transfer.hpp"
#include "stream/waiting.hpp"
#include "stream/worker.hpp"

namespace ndv::stream {

// What happened since the last call of on_event.
namespace event {
inline constexpr std::uint32_t kConnected = 1;
inline constexpr std::uint32_t kReceived = 2;   // data came
inline constexpr std::uint32_t kPeerShut = 4;   // the peer ended its direction, in order
inline constexpr std::uint32_t kBroken = 8;     // failure() says why
inline constexpr std::uint32_t kSent = 16;      // room for more
inline constexpr std::uint32_t kBacklog = 32;   // ideal_send_backlog() changed
inline constexpr std::uint32_t kReleased = 64;  // the connection is gone
}  // namespace event

enum class Phase : std::uint8_t { fresh, connecting, accepting, connected, over };

struct Received {
    std::size_t bytes = 0;
    bool is_end = false;  // no more will come; else 0 bytes mean that none are there yet
};

enum class How : std::uint8_t { read, write, both };

class Stream final : public core::Object, base::Live<base::LiveKind::stream> {
public:
    using OnEvent = Outcomes::OnEvent;
    static constexpr std::chrono::seconds kLingerTime{5};
    // From here on a send that may wait leaves from the caller's memory: submit_send(), not send().
    static constexpr std::size_t kDirectSend = 128 * 1024;

    Stream(const std::shared_ptr<core::Adapter>& adapter, std::shared_ptr<Worker> worker,
           const StreamOptions& options);
    ~Stream() override;

    // ---- life ----
    // `parameters`: peer, local or endpoint, timeout. Ends in event::kConnected or kBroken.
    [[nodiscard]] Expected<void> start_connect(core::ConnectParameters parameters);
    // Of a listener: answers the request that `connector` brought.
    [[nodiscard]] Expected<void> start_accept(std::shared_ptr<core::Connector> connector,
                                              std::chrono::nanoseconds timeout);
    [[nodiscard]] Expected<void> shutdown(How how);
    // Ends the sending direction behind all that was sent; done when the device has sent it.
    [[nodiscard]] Expected<std::shared_ptr<core::Operation>> start_disconnect();
    // Ends both directions at once; the peer sees a reset, and what was not sent is lost.
    void abort();

    // ---- data ----
    // Takes over as much as there is room for; 0: none.
    [[nodiscard]] Expected<std::size_t> send(const std::byte* data, std::size_t length,
                                             core::Budget budget);
    // Copies out what is there. With `peeks` it stays.
    [[nodiscard]] Expected<Received> receive(std::byte* to, std::size_t length, core::Budget budget,
                                             bool peeks = false);
    // Leaves from the caller's memory, in order behind what was sent before; with an offset, it
    // goes into a mapping of the peer's and not into the stream.
    [[nodiscard]] Expected<void> submit_send(const std::shared_ptr<Transfer>& transfer);
    [[nodiscard]] Expected<void> submit_receive(const std::shared_ptr<Transfer>& transfer);
    // Memory that the peer may write to by offset, without a message; -> the offset, by default
    // the address. What the transfer names stays until unmap().
    [[nodiscard]] Expected<std::uint64_t> map(const std::shared_ptr<Transfer>& memory,
                                              std::optional<std::uint64_t> offset);
    // The peer must have stopped writing there: no message is sent to it.
    [[nodiscard]] Expected<void> unmap(const std::byte* data, std::uint64_t length);
    // Ends it with CANCELLED, or as it is when part of it was sent or filled.
    void cancel(const std::shared_ptr<Transfer>& transfer);
    // Received bytes that stay in the ring until release(); the oldest, in one piece. With `seen`,
    // none unless look() would still show it.
    [[nodiscard]] Expected<View> take(std::uint32_t most, const View* seen = nullptr);
    void release(const View& view);
    // The oldest bytes in one piece, which stay where they are; then consume() part of them, or
    // take() them. Meanwhile no other thread may receive.
    [[nodiscard]] View look(std::uint32_t most);
    void consume(std::uint32_t length);
    [[nodiscard]] const std::byte* data_of(const View& view) const;

    // ---- waiting: true when it is so, or never will be ----
    [[nodiscard]] bool wait_readable(std::chrono::nanoseconds timeout);
    [[nodiscard]] bool wait_writable(std::chrono::nanoseconds timeout);
    [[nodiscard]] bool wait_connected(std::chrono::nanoseconds timeout);
    // The operation itself is completed a moment later.
    [[nodiscard]] bool wait_done(const Transfer& transfer, std::chrono::nanoseconds timeout);
    // Readable and writable as the stream is, and both for good when it is closed; made on first
    // use. The number is the system's again when the last reference goes.
    [[nodiscard]] Expected<std::shared_ptr<Readiness>> descriptor();
    // Called from any thread, without locks, one call at a time. Another one replaces it, an empty
    // one takes it off; a call that has begun still ends.
    void set_on_event(OnEvent function);

    // ---- state ----
    // acquire: pairs with enter_phase().
    [[nodiscard]] Phase phase() const { return phase_.load(std::memory_order_acquire); }
    [[nodiscard]] std::uint64_t readable() const;
    // As readable(), after a look at what has come.
    [[nodiscard]] std::uint64_t available();
    [[nodiscard]] bool is_peer_shut() const;
    // What broke the stream, if anything did.
    [[nodiscard]] std::optional<Error> failure() const;
    [[nodiscard]] Expected<core::SocketAddress> local_address() const;
    [[nodiscard]] Expected<core::SocketAddress> peer_address() const;
    [[nodiscard]] std::uint64_t ideal_send_backlog() const;
    // Bytes taken over and not yet sent.
    [[nodiscard]] std::uint64_t send_backlog() const;
    // Sizes of the connection that is made later; once there is one, nothing changes.
    void set_options(const StreamOptions& options);
    void set_keepalive(double interval_s);
    // close() drops what was not sent, as SO_LINGER with 0 s does.
    void set_aborts_on_close(bool aborts) {
        aborts_on_close_.store(aborts, std::memory_order_relaxed);
    }
    // The peer could write more if received data were released.
    [[nodiscard]] bool is_short_of_memory() const;
    // Of the inspection that it was accepted by; 0: none.
    [[nodiscard]] std::uint64_t inspect_id() const {
        return inspect_id_.load(std::memory_order_relaxed);
    }
    // Memory of this stream's, registered or not.
    [[nodiscard]] std::uint64_t memory_use() const;

private:
    friend class StreamListener;

    // Noticed elsewhere, handled by the thread that holds the gate.
    static constexpr std::uint32_t kEstablished = 1;
    static constexpr std::uint32_t kPeerClosed = 2;
    static constexpr std::uint32_t kDisconnected = 4;
    static constexpr std::uint32_t kKeepalive = 8;

    enum class Side : std::uint8_t { connecting, accepting };

    // Entered while it lives. When the gate is left, what ended meanwhile is completed and
    // reported.
    class Entered {
    public:
        explicit Entered(Stream& stream) : stream_(stream) { stream.gate_.enter(); }
        // Of a call that asks: what it completes and reports when it leaves is no part of its
        // answer.
        explicit Entered(const Stream& stream) : Entered(const_cast<Stream&>(stream)) {}
        // The caller has entered.
        Entered(Stream& stream, std::adopt_lock_t) : stream_(stream) {}
        ~Entered() { stream_.leave(); }
        Entered(const Entered&) = delete;
        Entered& operator=(const Entered&) = delete;

    private:
        Stream& stream_;
    };

    void do_close() override;

    // Without the gate.
    void signal(std::uint32_t signals);
    void leave();
    void finish_connect();
    [[nodiscard]] core::Connector::OnDisconnect peer_closes();
    void follow(const std::shared_ptr<core::Operation>& operation);
    void begin_keepalive();
    void schedule_keepalive(std::uint32_t chain);
    [[nodiscard]] bool wait_until(const IsReady& is_ready, std::chrono::nanoseconds timeout);
    [[nodiscard]] bool lead(const IsReady& is_ready, core::Time until);

    // With the gate.
    [[nodiscard]] Expected<void> prepare(Side side, core::ConnectParameters& parameters);
    [[nodiscard]] Expected<std::shared_ptr<core::Operation>> begin_connect(
        core::ConnectParameters parameters);
    void pump();
    void rearm();
    [[nodiscard]] bool can_lead() const {
        return is_live() && !waiting_.has_leader && phase() == Phase::connected;
    }
    void handle_signals(std::uint32_t signals);
    void take_completions();
    void handle_completion(const core::Completion& done);
    void handle_sent();
    void serve(core::Budget budget);
    void post_control();
    void post_staged();
    void post_transfers();
    void end_if_due();
    void grow();
    [[nodiscard]] bool post(Outgoing& out, const std::shared_ptr<Transfer>& transfer, bool is_end);
    [[nodiscard]] std::optional<Error> send_refusal(const char* call = "send") const;
    [[nodiscard]] std::optional<Error> unmapped(const Transfer& transfer) const;
    [[nodiscard]] bool take_target(Transfer& transfer, Outgoing& out);
    [[nodiscard]] std::optional<Error> receive_refusal() const;
    [[nodiscard]] bool is_at_end() const;
    [[nodiscard]] bool is_readable_now() const;
    [[nodiscard]] bool is_writable_now() const;
    [[nodiscard]] bool is_live() const { return channel_ != nullptr && !is_released_; }
    void break_down(Error error);
    void break_down(Status status, std::string what, int os_error) {
        break_down({status, std::move(what), {}, os_error});
    }
    // What a part had begun when it found no memory cannot be taken up again.
    void break_without_memory();
    void end_after_close();
    void break_by(const core::Completion& done);
    void release_in_order();
    void release_now();
    void finish_transfers(const Error& error);
    void end_receives();
    void tell(std::uint32_t events) { outcomes_.events |= events; }
    // release: pairs with phase().
    void enter_phase(Phase phase) { phase_.store(phase, std::memory_order_release); }
    [[nodiscard]] std::uint32_t take_signals() {
        return signals_.exchange(0, std::memory_order_acquire);  // pairs with signal()
    }

    const std::weak_ptr<core::Adapter> adapter_;
    const std::shared_ptr<Worker> worker_;
    StreamOptions options_;
    // Written with the gate, read without.
    std::atomic<Phase> phase_{Phase::fresh};
    // release: pairs with the acquire of the thread that takes them with the gate.
    std::atomic<std::uint32_t> signals_{0};
    // The completion queue will call back. Its callback clears it with release, which pairs with
    // the acquire in rearm(): what the callback saw comes before the next arm.
    std::atomic<bool> is_armed_{false};
    // relaxed, all four: values by themselves; nothing else depends on them.
    std::atomic<bool> aborts_on_close_{false};
    std::atomic<double> keepalive_s_{0};
    std::atomic<std::uint32_t> keepalive_chain_{0};  // of the tasks that go on
    std::atomic<std::uint64_t> inspect_id_{0};

    mutable Gate gate_;
    std::unique_ptr<Channel> channel_;
    std::optional<Engine> engine_;
    std::shared_ptr<core::Connector> connector_;
    std::shared_ptr<core::Operation> connect_operation_;
    core::SocketAddress peer_;
    std::optional<Error> failure_;
    bool is_closing_ = false;
    bool is_releasing_ = false;
    bool is_released_ = false;
    std::uint64_t told_backlog_ = 0;
    struct Mapped {
        std::shared_ptr<Transfer> memory;
        std::uint32_t number = 0;
    };
    std::vector<Mapped> mapped_;
    Outcomes outcomes_;
    Sending sending_{outcomes_};
    Receiving receiving_{outcomes_};
    Waiting waiting_;
};

}  // namespace ndv::stream

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
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <vector>

#include "base/expected.hpp"
#include "base/live.hpp"
#include "base/mutex.hpp"
#include "base/shortage.hpp"
#include "core/adapter.hpp"
#include "core/object.hpp"
#include "core/progress.hpp"
#include "stream/channel.hpp"
#include "stream/engine.hpp"
#include "stream/gate.hpp"
#include "stream/readiness.hpp"
#include "stream/worker.hpp"

namespace ndv::stream {

// What happened since the last time that on_event was told.
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

// A send or receive that the caller need not wait for; its memory stays until it is done.
struct Transfer {
    std::shared_ptr<core::Operation> operation = std::make_shared<core::Operation>();
    std::byte* data = nullptr;
    std::uint64_t length = 0;
    std::uint64_t done = 0;                      // sends: posted; receives: filled
    std::optional<std::uint64_t> offset;         // sends: into the peer's mappings
    core::BufferHold* hold = nullptr;            // one reference
    std::shared_ptr<core::MemoryRegion> region;  // sends beyond inline
    std::uint32_t token = 0;
    bool is_finished = false;
    bool is_all = false;                   // receives: complete when full (WSK_FLAG_WAITALL)
    bool is_drain = false;                 // receives: discard until the end (WSK_FLAG_DRAIN)
    std::atomic<std::uint64_t> result{0};  // bytes, once done

    Transfer() = default;
    Transfer(const Transfer&) = delete;
    Transfer& operator=(const Transfer&) = delete;
    ~Transfer() {
        if (region && !region->is_foreign()) region->close();
        if (hold != nullptr) hold->release();
    }
};

enum class How : std::uint8_t { read, write, both };

class Stream final : public core::Object, base::Live<base::LiveKind::stream> {
public:
    using OnEvent = std::function<void(std::uint32_t)>;
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
    enum class Ending : std::uint8_t { none, shutdown, disconnect };

    // A completion that is due: everything posted up to it is done.
    struct Record {
        std::uint32_t slots = 0;
        std::uint64_t staged_until = 0;
        std::shared_ptr<Transfer> transfer;
        bool is_end = false;
    };

    // Entered while it lives. When the gate is left, what ended meanwhile is completed and
    // reported.
    class Entered {
    public:
        explicit Entered(Stream& stream) : stream_(stream) { stream.gate_.enter(); }
        // The caller has entered.
        Entered(Stream& stream, std::adopt_lock_t) : stream_(stream) {}
        ~Entered() { stream_.leave(); }
        Entered(const Entered&) = delete;
        Entered& operator=(const Entered&) = delete;

    private:
        Stream& stream_;
    };

    using IsReady = std::function<bool()>;  // asked with the gate, by any thread

    // A thread that sleeps while another one leads, or none can. In a list that the gate guards.
    class Follower {
    public:
        explicit Follower(const IsReady& is_ready) : is_ready_(is_ready) {}

        // False: the time is over.
        [[nodiscard]] bool sleep_until(core::Time until) {
            base::UniqueLock lock(mutex_);
            while (!is_woken_) {
                const auto ended =
                    woken_.wait_until(lock.native(), std::chrono::steady_clock::time_point(until));
                if (ended == std::cv_status::timeout) return is_woken_;
            }
            return true;
        }
        void wake() {
            const base::Lock lock(mutex_);
            is_woken_ = true;
            woken_.notify_one();
        }

    private:
        friend class Stream;

        const IsReady& is_ready_;
        Follower* next_ = nullptr;
        bool is_over_ = false;  // it was ready when it was woken
        base::Mutex mutex_;
        std::condition_variable woken_;
        bool is_woken_ NDV_GUARDED_BY(mutex_) = false;
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
    [[nodiscard]] Expected<void> prepare(Side side);
    void pump();
    void rearm();
    [[nodiscard]] bool can_lead() const {
        return is_live() && !has_leader_ && phase() == Phase::connected;
    }
    void wake_followers();
    void remove_follower(const Follower& follower);
    // What a part had begun when it found no memory cannot be taken up again: the stream breaks.
    template <typename Part>
    void guarded(Part&& part) {
        try {
            part();
        } catch (const std::bad_alloc&) {
            base::with_memory([this] { break_without_memory(); });
        }
    }
    void handle_signals(std::uint32_t signals);
    void do_handle_signals(std::uint32_t signals);
    void take_completions();
    void do_take_completions();
    void handle_completion(const core::Completion& done);
    void handle_sent(const core::Completion& done);
    void serve(core::Budget budget);
    void do_serve(core::Budget budget);
    void post_control();
    void post_staged();
    void post_transfers();
    void fill_receives();
    void discard_received();
    void end_if_due();
    void grow();
    [[nodiscard]] bool has_slots(std::uint32_t count) const { return free_slots_ >= count; }
    [[nodiscard]] bool post(Outgoing& out, const std::shared_ptr<Transfer>& transfer, bool is_end);
    [[nodiscard]] std::size_t stage(const std::byte* data, std::size_t length);
    [[nodiscard]] std::optional<Error> send_refusal(const char* call = "send") const;
    [[nodiscard]] std::optional<Error> unmapped(const Transfer& transfer) const;
    [[nodiscard]] bool take_target(Transfer& transfer, Outgoing& out);
    [[nodiscard]] std::optional<Error> receive_refusal() const;
    [[nodiscard]] bool is_at_end() const;
    [[nodiscard]] bool is_readable_now() const;
    [[nodiscard]] bool is_writable_now() const;
    [[nodiscard]] bool is_live() const { return channel_ != nullptr && !is_released_; }
    void break_down(Error error);
    void break_without_memory();
    void end_after_close();
    void break_by(const core::Completion& done);
    void release_in_order();
    void release_now();
    void finish_transfers(const Error& error);
    void end_receives();
    void finish(const std::shared_ptr<Transfer>& transfer, Expected<void> outcome);
    void tell(std::uint32_t events) { events_ |= events; }
    // release: pairs with phase().
    void enter_phase(Phase phase) { phase_.store(phase, std::memory_order_release); }
    [[nodiscard]] std::uint32_t take_signals() {
        return signals_.exchange(0, std::memory_order_acquire);  // pairs with signal()
    }
    void show_readiness();

    const std::weak_ptr<core::Adapter> adapter_;
    const std::shared_ptr<Worker> worker_;
    StreamOptions options_;
    // Written with the gate. release: pairs with the acquire in phase(), which is read without.
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
    Ending ending_ = Ending::none;
    std::shared_ptr<core::Operation> end_operation_;
    bool is_read_shut_ = false;
    bool is_copying_ = false;  // a reader, outside the gate
    bool is_closing_ = false;
    bool is_end_posted_ = false;
    bool is_cut_ = false;  // sends were dropped that had not wholly been posted
    bool is_releasing_ = false;
    bool is_released_ = false;
    bool has_leader_ = false;
    bool owes_transmit_ = false;
    bool was_writable_ = false;
    std::uint64_t told_backlog_ = 0;

    // Positions in the staged stream: [free_, posted_) is on its way, [posted_, head_) waits.
    std::uint64_t head_ = 0;
    std::uint64_t posted_ = 0;
    std::uint64_t free_ = 0;
    std::uint64_t signalled_until_ = 0;
    std::uint32_t free_slots_ = 0;
    std::uint32_t open_slots_ = 0;  // posted since the last signalled one
    std::vector<Record> records_;   // a ring as large as the initiator queue
    std::uint32_t record_head_ = 0;
    std::uint32_t record_tail_ = 0;

    [[nodiscard]] std::uint32_t next_record(std::uint32_t at) const {
        return (at + 1) % static_cast<std::uint32_t>(records_.size());
    }

    std::deque<std::shared_ptr<Transfer>> sends_;     // not wholly posted
    std::vector<std::shared_ptr<Transfer>> orphans_;  // cancelled while part of them was posted
    std::deque<std::shared_ptr<Transfer>> receives_;
    struct Mapped {
        std::shared_ptr<Transfer> memory;
        std::uint32_t number = 0;
    };
    std::vector<Mapped> mapped_;
    std::uint64_t transfer_backlog_ = 0;  // bytes of sends that are not done

    struct Finished {
        std::shared_ptr<core::Operation> operation;
        Expected<void> outcome;
    };
    std::vector<Finished> finished_;
    std::uint32_t events_ = 0;
    std::shared_ptr<const OnEvent> on_event_;
    bool is_telling_ = false;  // some thread calls it
    std::shared_ptr<Readiness> readiness_;

    Follower* followers_ = nullptr;

    // One reader copies at a time, outside the gate.
    base::Mutex reader_;
};

}  // namespace ndv::stream

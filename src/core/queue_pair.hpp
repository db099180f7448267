// SPDX-License-Identifier: Apache-2.0
// The queue pair: argument checks and local memory for every request, once for all providers.
// What was posted ends in exactly one completion (silent success apart). Source: NDKPI QP
// dispatch.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/expected.hpp"
#include "base/live.hpp"
#include "core/completion_queue.hpp"
#include "core/detail.hpp"
#include "core/extension.hpp"
#include "core/mapping.hpp"
#include "core/memory.hpp"
#include "core/object.hpp"
#include "core/outstanding.hpp"
#include "core/shared_receive_queue.hpp"
#include "core/types.hpp"

namespace ndv::core {

enum class QueuePairState : std::uint8_t { idle, connected, error };

// What a queue pair reports to its connector: in a step or on the progress thread, without locks.
class QueuePairObserver {
public:
    QueuePairObserver() = default;
    QueuePairObserver(const QueuePairObserver&) = delete;
    QueuePairObserver& operator=(const QueuePairObserver&) = delete;
    virtual ~QueuePairObserver() = default;

    virtual void on_heard() = 0;    // passive: the peer's first message came, or none is due
    virtual void on_drained() = 0;  // disconnect: what was posted has ended
    // The peer's end in order. True: the program has been notified, so posted receives stay.
    [[nodiscard]] virtual bool on_peer_closed() { return false; }
    // It has failed, with errno where the system gave one, or this side has flushed or closed it.
    virtual void on_over(bool is_failure, int os_error) = 0;
};

class QueuePair : public Object, base::Live<base::LiveKind::queue_pair> {
public:
    QueuePair(std::shared_ptr<ProtectionDomain> pd, std::shared_ptr<CompletionQueue> receive_cq,
              std::shared_ptr<CompletionQueue> initiator_cq, const QueuePairLimits& limits,
              RequestContexts* contexts);
    ~QueuePair() override;

    // Posting calls of one queue are serialised by the caller; sends and receives are not.
    // A status other than success: nothing was posted, the queue pair stays usable.
    [[nodiscard]] Status post(const WorkRequest& request);
    [[nodiscard]] Status post_receive(const ReceiveRequest& request);
    [[nodiscard]] Status fast_register(const FastRegisterRequest& request);
    [[nodiscard]] Status bind(const BindRequest& request);
    [[nodiscard]] Status invalidate(const InvalidateRequest& request);
    // After a successful post, unless it was DEFER, and after one that was refused, which starts
    // what was deferred before it: transmit on this thread. True: work is left for a large budget.
    [[nodiscard]] virtual bool transmit(Budget budget) = 0;
    // By one of the calls above, and transmits under the small budget where that is due.
    // `needs_large`: work is left for transmit(Budget::large).
    template <auto kPost, typename Request>
    [[nodiscard]] Status post_and_transmit(const Request& request, bool& needs_large) {
        const Status status = (this->*kPost)(request);
        const bool waits =
            status == Status::success ? (request.flags & flag::kDefer) != 0 : is_closed();
        if (!waits) needs_large = transmit(Budget::small);
        return status;
    }

    // Optional. Beside requests, on the thread that posts: what is done in the call or not begun,
    // and needs no slot, no registered memory of the caller's and no completion. The caller posts
    // what is left. Writes or Reads of pieces, in order; returns how many, of any number none.
    [[nodiscard]] virtual std::size_t move_now(OperationType type, std::byte* own,
                                               std::uint64_t remote_address, std::uint32_t token,
                                               std::span<const Span> spans) {
        static_cast<void>(type);
        static_cast<void>(own);
        static_cast<void>(remote_address);
        static_cast<void>(token);
        static_cast<void>(spans);
        return 0;
    }
    // An atomic; true: `found` is what was there.
    [[nodiscard]] virtual bool fetch_now(const WorkRequest& request, std::uint64_t& found) {
        static_cast<void>(request);
        static_cast<void>(found);
        return false;
    }

    // For the thread that posts, while it lives: what requests that follow each other have in
    // common is done once. They may show, and complete, at its end alone.
    class Batch {
    public:
        explicit Batch(QueuePair& qp) : qp_(qp) { qp_.begin_batch(); }
        Batch(const Batch&) = delete;
        Batch& operator=(const Batch&) = delete;
        ~Batch() { qp_.end_batch(); }

    private:
        QueuePair& qp_;
    };

    // The sentence behind a status that post() or post_receive() returned. Cold.
    [[nodiscard]] Error explain(Status status, const WorkRequest& request) const;
    [[nodiscard]] Error explain(Status status, const ReceiveRequest& request) const;
    [[nodiscard]] Error explain(Status status, const FastRegisterRequest& request) const;
    [[nodiscard]] Error explain(Status status, const BindRequest& request) const;
    [[nodiscard]] Error explain(Status status, const InvalidateRequest& request) const;

    // Cancels everything posted; terminal. Asynchronous: completions follow.
    virtual void flush() = 0;

    // From the connector. One queue pair, one connection: false when it had one already. acq_rel:
    // pairs with unreserve(); a connector sees what the one before it left behind.
    [[nodiscard]] bool reserve() { return !is_reserved_.exchange(true, std::memory_order_acq_rel); }
    // A failed attempt leaves the queue pair as it was. release: pairs with reserve().
    void unreserve() {
        renew();
        is_reserved_.store(false, std::memory_order_release);
    }
    // idle to connected, unless it was flushed meanwhile. acq_rel: pairs with state().
    void mark_connected() {
        QueuePairState expected = QueuePairState::idle;
        state_.compare_exchange_strong(expected, QueuePairState::connected,
                                       std::memory_order_acq_rel);
    }
    // In order: what was posted goes out; the connector hears when it is.
    virtual void disconnect() = 0;
    // A flush that the connector has decided on, and why.
    virtual void end(End why) = 0;

    // Why the connection ended: what was noted first. Source none before that.
    [[nodiscard]] Detail cause() const {
        return unpacked(cause_.load(std::memory_order_acquire));  // pairs with note_cause()
    }
    // The error of a request that needs a connection: it has ended, and why, or has not begun.
    [[nodiscard]] Error not_connected(const std::string& name) const;
    [[nodiscard]] QueuePairState state() const {
        return state_.load(std::memory_order_acquire);  // pairs with set_state(), mark_connected()
    }
    [[nodiscard]] const std::shared_ptr<ProtectionDomain>& pd() const { return pd_; }
    [[nodiscard]] const std::shared_ptr<CompletionQueue>& receive_cq() const { return receive_cq_; }
    [[nodiscard]] const std::shared_ptr<CompletionQueue>& initiator_cq() const {
        return initiator_cq_;
    }
    // The rights that local memory needs as the target of a Read: iWARP devices place a response
    // through a token that is writable from remote, and want that declared (READ_SINK).
    [[nodiscard]] std::uint32_t sink_rights() const;
    // The rights that the local memory of a request needs.
    [[nodiscard]] std::uint32_t local_rights(OperationType type) const;
    [[nodiscard]] const QueuePairLimits& limits() const { return limits_; }
    // Null: receives are posted to the queue pair itself.
    [[nodiscard]] const std::shared_ptr<SharedReceiveQueue>& srq() const { return srq_; }

protected:
    // Once, before another thread sees the queue pair.
    void set_srq(std::shared_ptr<SharedReceiveQueue> srq);
    // The one end of a request that has a completion. False: the completion queue is dead, and with
    // it this queue pair, in error by now; the provider ends it.
    [[nodiscard]] bool deliver(bool is_receive, Completion& completion);
    // The same for a run of requests of the initiator queue. Consumed, whatever happens.
    [[nodiscard]] bool deliver(std::span<Completion> run);
    // And of a request that has none.
    void end_silently(std::uint64_t context, bool is_object);
    // Optional: ends requests that are over and not looked at yet; the queue is full.
    virtual void look_for_ends() {}
    // From do_close(): no more requests that need room in the completion queues.
    void withdraw();
    // Optional. The express lane: does a request that has passed the checks, all of it, in the
    // call that posts it. Its memory is looked at for `rights` by the provider, and needs no
    // reference. False: nothing was done, and the request takes the ordinary way.
    [[nodiscard]] virtual bool express(const WorkRequest& request, std::uint32_t length,
                                       std::uint32_t rights) {
        static_cast<void>(request);
        static_cast<void>(length);
        static_cast<void>(rights);
        return false;
    }
    // Optional: see Batch.
    virtual void begin_batch() {}
    virtual void end_batch() noexcept {}
    // `buffers` carry references that the provider owns once it returns success. Those of an INLINE
    // request stay the caller's: their bytes are copied before it returns.
    [[nodiscard]] virtual Status do_post(const WorkRequest& request,
                                         std::span<const LocalBuffer> buffers,
                                         std::uint32_t length) = 0;
    [[nodiscard]] virtual Status do_post_receive(const ReceiveRequest& request,
                                                 std::span<const LocalBuffer> buffers,
                                                 std::uint32_t length) = 0;
    // Optional. What is posted takes effect in the order of the initiator queue; tokens are new
    // when the call returns.
    // Their region and window are of this queue pair's domain, and so of the provider.
    [[nodiscard]] virtual Status do_fast_register(const FastRegisterRequest& request);
    [[nodiscard]] virtual Status do_bind(const BindRequest& request);
    [[nodiscard]] virtual Status do_invalidate(const InvalidateRequest& request);
    // Before the state shows the end. What comes later is a consequence, and not noted. acq_rel,
    // and release: pair with cause() and state().
    void note_cause(const Detail& cause) {
        std::uint64_t none = 0;
        cause_.compare_exchange_strong(none, packed(cause), std::memory_order_acq_rel);
    }
    void set_state(QueuePairState state) { state_.store(state, std::memory_order_release); }
    // Optional: what a failed attempt has used up is made anew.
    virtual void renew() {}

private:
    [[nodiscard]] Status check(const WorkRequest& request, std::uint64_t& length) const;
    // Posts by `post`, unless the initiator queue is full.
    template <typename Post>
    [[nodiscard]] Status initiate(const Post& post) {
        return initiated_->post(
            limits_.initiator_queue_depth, [this] { look_for_ends(); }, post);
    }
    [[nodiscard]] bool takes_express(const WorkRequest& request, std::uint64_t length,
                                     std::uint32_t rights);
    [[nodiscard]] Status check_extension(const WorkRequest& request, std::uint64_t length) const;

    const std::shared_ptr<ProtectionDomain> pd_;
    const AdapterInfo& info_;  // of the domain, which keeps it
    const std::shared_ptr<CompletionQueue> receive_cq_;
    const std::shared_ptr<CompletionQueue> initiator_cq_;
    const QueuePairLimits limits_;
    Outstanding::OfQueue initiated_;
    Outstanding::OfQueue receives_;
    std::atomic<bool> is_withdrawn_{false};
    std::atomic<bool> is_reserved_{false};
    std::shared_ptr<SharedReceiveQueue> srq_;
    std::atomic<QueuePairState> state_{QueuePairState::idle};
    std::atomic<std::uint64_t> cause_{0};  // a Detail
};

}  // namespace ndv::core

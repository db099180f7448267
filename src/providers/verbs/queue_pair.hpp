// SPDX-License-Identifier: Apache-2.0
// The verbs queue pair. Devices break the promise of one completion per request in many ways
// (docs/design.md, "verbs"); the shadow queues keep it. Requests end in two places only: taken from
// the hardware queue, or cancelled by advance_flush() when nothing comes back any more.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/mutex.hpp"
#include "base/pruning.hpp"
#include "core/queue_pair.hpp"
#include "providers/verbs/abi/functions.hpp"
#include "providers/verbs/completion_queue.hpp"
#include "providers/verbs/local_memory.hpp"
#include "providers/verbs/own_pages.hpp"
#include "providers/verbs/parts.hpp"
#include "providers/verbs/shadow_queue.hpp"
#include "providers/verbs/shared_receive_queue.hpp"

namespace ndv::verbs {

// One ibv_qp and the memory that its inline data leaves from; destroyed on the worker thread.
class HardwareQueuePair {
public:
    // The deleter of its owners.
    static void end(HardwareQueuePair* gone);
    HardwareQueuePair(std::shared_ptr<AdapterParts> parts, std::shared_ptr<OwnedDomain> domain,
                      std::shared_ptr<HardwareQueue> receive_queue,
                      std::shared_ptr<HardwareQueue> initiator_queue,
                      std::shared_ptr<HardwareSharedQueue> shared_queue);
    HardwareQueuePair(const HardwareQueuePair&) = delete;
    HardwareQueuePair& operator=(const HardwareQueuePair&) = delete;
    ~HardwareQueuePair();
    [[nodiscard]] Expected<void> create(const core::QueuePairLimits& limits);

    [[nodiscard]] ibv_qp* get() const { return qp_; }
    [[nodiscard]] std::uint32_t serial() const { return serial_; }
    [[nodiscard]] std::uint32_t inline_size() const { return inline_size_; }
    [[nodiscard]] std::uint32_t number() const { return number_; }
    [[nodiscard]] bool has_shared_queue() const { return shared_queue_ != nullptr; }
    // Where the inline data of a position is staged that the device does not take by itself, or in
    // one piece when it has more segments than the hardware.
    [[nodiscard]] std::byte* staging(std::uint32_t slot) const {
        return staging_.data() + slot * stride_;
    }
    // 0 where the device takes all inline data by itself, and so looks at no key.
    [[nodiscard]] std::uint32_t staging_key() const { return staging_.key(); }
    // A buffer that a request of this queue pair named: given back when the device cannot touch it.
    void keep(core::BufferHold* hold) { kept_.push_back(hold); }
    // The device did not stop it, so it goes before its time. get() is of no use after leave(),
    // which is true once; is_destroyed() follows some time after destroy(), by the worker thread,
    // which lets go of `user` then.
    // acq_rel, acquire: of the threads that call leave() the first one destroys.
    [[nodiscard]] bool leave() { return !is_leaving_.exchange(true, std::memory_order_acq_rel); }
    [[nodiscard]] bool is_leaving() const { return is_leaving_.load(std::memory_order_acquire); }
    void destroy(std::shared_ptr<HardwareQueuePair> self, std::shared_ptr<core::Object> user);
    [[nodiscard]] bool is_destroyed() const {
        return is_destroyed_.load(std::memory_order_acquire);  // pairs with destroy()
    }

private:
    const std::shared_ptr<AdapterParts> parts_;
    const std::shared_ptr<HardwareQueue> receive_queue_;
    const std::shared_ptr<HardwareQueue> initiator_queue_;
    const std::shared_ptr<HardwareSharedQueue> shared_queue_;  // null: none
    const std::uint32_t serial_;
    ibv_qp* qp_ = nullptr;
    std::uint32_t inline_size_ = 0;
    std::uint32_t number_ = 0;
    std::size_t stride_ = 0;
    OwnPages staging_;
    std::atomic<bool> is_leaving_{false};
    std::atomic<bool> is_destroyed_{false};
    std::vector<core::BufferHold*> kept_;
};

class QueuePair final : public core::QueuePair, public Member {
public:
    QueuePair(std::shared_ptr<core::ProtectionDomain> pd, std::shared_ptr<LocalMemory> memory,
              std::shared_ptr<CompletionQueue> receive_cq,
              std::shared_ptr<CompletionQueue> initiator_cq,
              std::shared_ptr<SharedReceiveQueue> srq, const core::QueuePairLimits& limits,
              core::RequestContexts* contexts);
    ~QueuePair() override;
    // Makes the hardware queue pair, or another one in its place that takes over the receives that
    // are posted.
    [[nodiscard]] Expected<void> take_hardware();

    // From the connector.
    [[nodiscard]] std::shared_ptr<HardwareQueuePair> hardware() const;
    [[nodiscard]] bool waits_for_device() const override { return true; }
    // On iWARP another one after a refused attempt to connect.
    [[nodiscard]] std::uintptr_t raw_handle() const override {
        const std::shared_ptr<HardwareQueuePair> mine = hardware();
        return mine->is_leaving() ? 0 : reinterpret_cast<std::uintptr_t>(mine->get());
    }
    // INIT, RTR, RTS, as rdma_cm wants them, but with the read limits that the two sides agreed on.
    [[nodiscard]] Expected<void> make_ready(const char* call, rdma_cm_id* id,
                                            const core::ConnectionData& agreed);
    void attach(std::weak_ptr<core::QueuePairObserver> observer, std::uint32_t outbound_read_limit);
    // No new requests; on_drained() follows when those posted have ended.
    void disconnect() override;
    // Asks the device; false where it does not know.
    [[nodiscard]] bool is_hardware_in_error() const;
    // From the device, on the progress thread.
    void break_down() { request_tick(kBroken); }
    void hear_peer();
    // The peer has disconnected: requests that it does not answer any more will be given up.
    void note_peer_left() { has_peer_left_.store(true, std::memory_order_release); }  // supervise()

    // Under the harvest mutex of the queue that `done` comes from.
    void handle_completion(const WorkId& id, const ibv_wc& done);
    void handle_shared_receive(const WorkId& id, const ibv_wc& done);

    [[nodiscard]] bool transmit(core::Budget) override { return false; }
    void flush() override;
    void end(core::End why) override;

    // Member: what has to be done away from the caller's thread.
    void on_deadline() override;

private:
    static constexpr unsigned kBroken = 1;  // reasons for a tick
    static constexpr unsigned kEnd = 2;
    static constexpr unsigned kFlush = 4;
    static constexpr unsigned kDrain = 8;
    static constexpr unsigned kTell = 16;

    [[nodiscard]] Status do_post(const core::WorkRequest& request,
                                 std::span<const core::LocalBuffer> buffers,
                                 std::uint32_t length) override;
    [[nodiscard]] Status do_post_receive(const core::ReceiveRequest& request,
                                         std::span<const core::LocalBuffer> buffers,
                                         std::uint32_t length) override;
    [[nodiscard]] Status do_fast_register(const core::FastRegisterRequest& request) override;
    [[nodiscard]] Status do_bind(const core::BindRequest& request) override;
    [[nodiscard]] Status do_invalidate(const core::InvalidateRequest& request) override;
    void look_for_ends() override { static_cast<void>(initiator_queue_.harvest()); }
    void do_close() override;

    // Places for so many requests; false: the queue is full.
    [[nodiscard]] bool has_places(std::uint32_t count);
    template <typename Request>
    [[nodiscard]] Status post_mapping(const Request& request, core::OperationType type,
                                      const std::shared_ptr<Mappable>& about);
    [[nodiscard]] Status post_reading_invalidate(const core::WorkRequest& request,
                                                 std::span<const core::LocalBuffer> buffers);
    // Publishes the next slot, and begins the request that goes with it.
    template <typename Request>
    Shadow& fill_slot(const Request& request, core::OperationType type,
                      std::span<const core::LocalBuffer> buffers, ibv_send_wr& wr)
        NDV_REQUIRES(initiator_mutex_);
    void describe(const core::WorkRequest& request, ibv_send_wr& wr) const;
    // The last slots go to the device; they are taken back when it refuses.
    [[nodiscard]] Status submit(ibv_send_wr& wr, std::uint32_t count)
        NDV_REQUIRES(initiator_mutex_);

    // After a failed attempt: takes a new ibv_qp on iWARP, and elsewhere when make_ready() had
    // begun.
    void renew() override;
    [[nodiscard]] int post_receive_to_hardware(std::uint32_t position) NDV_REQUIRES(receive_mutex_);
    void stage_inline(std::span<const core::LocalBuffer> buffers, std::uint32_t position,
                      std::uint32_t length, ibv_send_wr& wr) NDV_REQUIRES(initiator_mutex_);
    // What a completion means for the queue pair, and for the request.
    [[nodiscard]] bool is_flush(const ibv_wc& done) const;
    void note_end(const ibv_wc& done, bool is_flush);
    [[nodiscard]] core::Completion judge(bool is_receive, const ibv_wc& done, bool is_flush);
    // Under the harvest mutex of the queue.
    void end_head(bool is_receive, core::Completion done);
    void push(bool is_receive, core::Completion& done);
    // Under both harvest mutexes.
    void cancel_rest();
    [[nodiscard]] core::Completion cancelled() const;
    void request_tick(unsigned reasons);
    void set_deadline(Time delay);
    void begin_supervision();
    void supervise();
    void advance_flush();
    // The device did not stop it. False: not yet gone.
    [[nodiscard]] bool destroy_hardware();
    void advance_drain();
    // Runs `function` with everything locked: no request comes or goes meanwhile.
    void with_all_locked(const std::function<void()>& function);
    [[nodiscard]] ShadowQueue& queue(bool is_receive) {
        return is_receive ? receives_ : initiated_;
    }
    [[nodiscard]] CompletionQueue& cq(bool is_receive) const {
        return is_receive ? receive_queue_ : initiator_queue_;
    }
    void harvest();
    [[nodiscard]] std::shared_ptr<core::QueuePairObserver> observer();
    // acquire: pairs with end().
    [[nodiscard]] bool is_flushed() const { return is_flushed_.load(std::memory_order_acquire); }

    const std::shared_ptr<AdapterParts> parts_;
    const std::shared_ptr<LocalMemory> memory_;
    CompletionQueue& receive_queue_;  // held by core::QueuePair
    CompletionQueue& initiator_queue_;
    const std::shared_ptr<SharedReceiveQueue> shared_;  // null: receives are its own
    const bool can_invalidate_;
    const bool can_read_and_invalidate_;

    // Guard the producer's side and the hardware queue against a flush or a renewal meanwhile.
    base::Mutex initiator_mutex_;
    mutable base::Mutex receive_mutex_;
    // Written with both mutexes held: either is enough to read it.
    std::shared_ptr<HardwareQueuePair> hardware_ NDV_GUARDED_BY(receive_mutex_);
    [[nodiscard]] HardwareQueuePair& initiator_hardware() const NDV_REQUIRES(initiator_mutex_)
        NDV_THREAD_ATTRIBUTE(no_thread_safety_analysis) {
        return *hardware_;
    }
    // Whose windows may be bound to the hardware queue pair. They must let go of it first.
    std::unordered_map<const Mappable*, std::weak_ptr<Mappable>> bound_
        NDV_GUARDED_BY(initiator_mutex_);
    base::Pruning pruning_ NDV_GUARDED_BY(initiator_mutex_);
    // Consumers: under the harvest mutex of the queue.
    ShadowQueue initiated_;
    ShadowQueue receives_;
    bool has_failed_request_ = false;  // of the initiator queue

    bool is_over_ NDV_GUARDED_BY(receive_mutex_) = false;  // what is posted now ends at once
    std::atomic<bool> is_unstopped_{false};  // the device did not take the ibv_qp to ERR
    std::atomic<bool> is_flushed_{false};    // nothing reaches the hardware any more
    std::atomic<bool> has_peer_left_{false};
    std::atomic<bool> is_supervised_{false};  // a deadline looks after requests under way
    std::atomic<unsigned> reasons_{0};
    // relaxed: set by the connector, whose mutex orders its calls, and those that it lets follow.
    std::atomic<bool> is_spent_{false};  // the ibv_qp has left INIT
    std::atomic<std::uint32_t> outbound_read_limit_{0};
    // relaxed: numbers that other threads compare; nothing else depends on them.
    std::atomic<std::uint32_t> silent_{0};  // requests under way that may end in silence
    std::atomic<std::uint64_t> ended_{0};   // requests so far: progress of a flush
    base::Mutex observer_mutex_;
    std::weak_ptr<core::QueuePairObserver> observer_ NDV_GUARDED_BY(observer_mutex_);

    // The progress thread's own.
    std::uint64_t ended_before_ = 0;
    Time silent_since_{0};
    Time tick_{0};
    bool is_flushing_ = false;
    bool is_draining_ = false;
    // For deadlines: a shared_ptr to this, even one of a moment, may be the last, and must not be
    // where the destructor would wait for a mutex that its holder has.
    std::weak_ptr<Member> self_;
};

}  // namespace ndv::verbs

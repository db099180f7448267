// SPDX-License-Identifier: Apache-2.0
// The states of a verbs queue pair: made ready, made anew, drained, flushed.
#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <mutex>
#include <string>
#include <utility>

#include "base/shortage.hpp"
#include "providers/verbs/queue_pair.hpp"

namespace ndv::verbs {
namespace {

// A flushed queue from which nothing comes back for so long gives nothing back any more: kernels
// forget receives and requests that were posted around the transition.
constexpr Time kSilence = std::chrono::milliseconds(200);
// While requests are under way the progress thread looks at them so often: a failure must reach the
// disconnect handler and the peer, and what ends in silence gives its buffers back.
constexpr Time kSupervision = std::chrono::milliseconds(100);
// A peer that has disconnected may be a process that has gone; rxe then repeats a Read for ever.
constexpr Time kGivesUp = std::chrono::seconds(2);
constexpr Time kFirstTick = std::chrono::milliseconds(1);
constexpr Time kLongestTick = std::chrono::milliseconds(16);

// How long a peer waits before it tries again to send to a queue without receives: 0.64 ms
// (InfiniBand architecture specification, table 45). rdma_cm's own choice is 655 ms.
constexpr std::uint8_t kRnrTimer = 12;

// How long a packet may go unacknowledged before it is sent again, seven times at most: 4.096 us *
// 2^16, so that requests to a peer that has gone end within seconds. rdma_cm's choice is minutes.
constexpr std::uint8_t kAckTimeout = 16;

}  // namespace

void QueuePair::with_all_locked(const std::function<void()>& function) {
    // Two queue pairs may use two queues in opposite roles: in order of their addresses.
    CompletionQueue* first = &receive_queue_;
    CompletionQueue* second = &initiator_queue_;
    if (std::less<>()(second, first)) std::swap(first, second);
    {
        const std::unique_lock first_lock(first->harvest_mutex().native());
        std::unique_lock<std::mutex> second_lock;
        if (first != second) second_lock = std::unique_lock(second->harvest_mutex().native());
        const base::Lock initiator_lock(initiator_mutex_);
        const base::Lock receive_lock(receive_mutex_);
        function();
    }
    first->tell_owed();
    if (first != second) second->tell_owed();
}

void QueuePair::harvest() {
    static_cast<void>(receive_queue_.harvest());
    if (&receive_queue_ != &initiator_queue_) static_cast<void>(initiator_queue_.harvest());
}

std::shared_ptr<core::QueuePairObserver> QueuePair::observer() {
    const base::Lock lock(observer_mutex_);
    return observer_.lock();
}

void QueuePair::hear_peer() {
    if (const auto told = observer()) told->on_heard();
}

Expected<void> QueuePair::make_ready(const char* call, rdma_cm_id* id,
                                     const core::ConnectionData& agreed) {
    const std::shared_ptr<HardwareQueuePair> mine = hardware();
    is_spent_.store(true, std::memory_order_relaxed);  // see its declaration
    for (const ibv_qp_state state : {IBV_QPS_INIT, IBV_QPS_RTR, IBV_QPS_RTS}) {
        ibv_qp_attr attributes{};
        attributes.qp_state = state;
        int mask = 0;
        if (rdma_init_qp_attr(id, &attributes, &mask) != 0) {
            // rdma_cm has nothing for an attempt that has ended, although its event is not here.
            if (errno == EINVAL) {
                return fail(Status::connection_aborted, std::string(call) + ": the peer gave up",
                            "nothing is left of this attempt", errno);
            }
            return verb_failed(std::string(call) + ": rdma_init_qp_attr", errno);
        }
        if ((mask & IBV_QP_MIN_RNR_TIMER) != 0) attributes.min_rnr_timer = kRnrTimer;
        if ((mask & IBV_QP_TIMEOUT) != 0) attributes.timeout = kAckTimeout;
        // rdma_cm has what the request asked for, which may be more than this device can.
        if ((mask & IBV_QP_MAX_DEST_RD_ATOMIC) != 0) {
            attributes.max_dest_rd_atomic = static_cast<std::uint8_t>(agreed.inbound_read_limit);
        }
        if ((mask & IBV_QP_MAX_QP_RD_ATOMIC) != 0) {
            attributes.max_rd_atomic = static_cast<std::uint8_t>(agreed.outbound_read_limit);
        }
        const int failed = std::abs(ibv_modify_qp(mine->get(), &attributes, mask));
        if (failed != 0) return verb_failed(std::string(call) + ": ibv_modify_qp", failed);
    }
    return {};
}

void QueuePair::attach(std::weak_ptr<core::QueuePairObserver> observer,
                       std::uint32_t outbound_read_limit) {
    // relaxed: see its declaration.
    outbound_read_limit_.store(outbound_read_limit, std::memory_order_relaxed);
    const base::Lock lock(observer_mutex_);
    observer_ = std::move(observer);
}

void QueuePair::renew() {
    {
        const base::Lock lock(observer_mutex_);
        observer_.reset();
    }
    // relaxed: see its declaration.
    const bool is_dead =
        is_spent_.exchange(false, std::memory_order_relaxed) || parts_->device->is_iwarp();
    if (is_dead && !is_flushed() && !take_hardware()) end(core::End::lost);
}

bool QueuePair::is_hardware_in_error() const {
    if (!parts_->device->quirks().has_query_qp) return false;
    ibv_qp_attr attributes{};
    ibv_qp_init_attr made{};
    const base::Lock lock(receive_mutex_);  // it is not destroyed meanwhile
    if (hardware_->is_leaving()) return true;
    return ibv_query_qp(hardware_->get(), &attributes, IBV_QP_STATE, &made) == 0 &&
           attributes.qp_state == IBV_QPS_ERR;
}

void QueuePair::disconnect() {
    note_cause(core::Detail::of(core::End::disconnected));
    set_state(core::QueuePairState::error);  // no new requests; those posted still go out
    request_tick(kDrain);
}

void QueuePair::flush() {
    end(core::End::flushed);
    request_tick(kTell);
}

void QueuePair::do_close() {
    withdraw();
    end(core::End::closed);
    request_tick(kTell);
    // What is posted ends after the hardware, also when this is held no more. acquire: pairs with
    // the release in end().
    if (is_unstopped_.load(std::memory_order_acquire)) static_cast<void>(destroy_hardware());
}

void QueuePair::end(core::End why) {
    note_cause(core::Detail::of(why));
    set_state(core::QueuePairState::error);
    {
        // No post is under way, and none reaches the hardware from here on.
        const base::Lock initiator_lock(initiator_mutex_);
        const base::Lock receive_lock(receive_mutex_);
        // acq_rel: pairs with is_flushed().
        if (is_flushed_.exchange(true, std::memory_order_acq_rel)) return;
        ibv_qp_attr attributes{};
        attributes.qp_state = IBV_QPS_ERR;
        if (ibv_modify_qp(hardware_->get(), &attributes, IBV_QP_STATE) != 0) {
            is_unstopped_.store(true, std::memory_order_release);  // advance_flush(), do_close()
        }
        if (!initiated_.is_empty()) {
            // Some drivers look at what was posted before the transition when one more comes.
            ibv_send_wr wr{};
            wr.opcode = IBV_WR_SEND;
            ibv_send_wr* refused = nullptr;
            static_cast<void>(ibv_post_send(hardware_->get(), &wr, &refused));
        }
    }
    // Asked for before completions are taken, which may find no memory: it comes once.
    base::with_memory([this] { request_tick(kFlush); });
    harvest();
}

void QueuePair::request_tick(unsigned reasons) {
    reasons_.fetch_or(reasons, std::memory_order_acq_rel);  // pairs with on_deadline()
    // When the last reference has gone, the destructor ends what is left.
    parts_->progress->set_deadline(*this, self_, now());
}

void QueuePair::on_deadline() {
    // acq_rel: pairs with request_tick().
    const unsigned reasons = reasons_.exchange(0, std::memory_order_acq_rel);
    if ((reasons & (kBroken | kEnd)) != 0) end(core::End::lost);
    for (const unsigned over : {kBroken, kTell}) {
        const auto told = (reasons & over) != 0 ? observer() : nullptr;
        if (told) told->on_over(over == kBroken, 0);
    }
    if ((reasons & (kFlush | kDrain)) != 0) {
        is_flushing_ = is_flushing_ || (reasons & kFlush) != 0;
        is_draining_ = is_draining_ || (reasons & kDrain) != 0;
        silent_since_ = now();
        tick_ = kFirstTick;
    }
    if (is_draining_) advance_drain();
    if (is_flushing_) advance_flush();
    if (is_flushing_ || is_draining_) {
        set_deadline(tick_);
        tick_ = std::min(2 * tick_, kLongestTick);
    } else if (is_supervised_.load(std::memory_order_relaxed)) {
        supervise();  // relaxed: only this thread ends it
    }
}

void QueuePair::set_deadline(Time delay) {
    parts_->progress->set_deadline(*this, self_, now() + delay);
}

void QueuePair::supervise() {
    initiator_queue_.try_harvest();
    // relaxed: see its declaration. acquire: pairs with note_peer_left().
    const std::uint64_t ended = ended_.load(std::memory_order_relaxed);
    if (std::exchange(ended_before_, ended) != ended ||
        !has_peer_left_.load(std::memory_order_acquire)) {
        silent_since_ = now();
    } else if (!initiated_.is_empty() && now() - silent_since_ > kGivesUp) {
        request_tick(kBroken);
        return;
    }
    // acq_rel: pairs with begin_supervision(), by a thread that posts: it sees the end of
    // supervision, or we its request. relaxed: what follows is this thread's.
    if (initiated_.is_empty()) is_supervised_.exchange(false, std::memory_order_acq_rel);
    if (!initiated_.is_empty()) {
        is_supervised_.store(true, std::memory_order_relaxed);
        set_deadline(kSupervision);
    }
}

void QueuePair::begin_supervision() {
    // acq_rel: pairs with supervise().
    if (!is_supervised_.exchange(true, std::memory_order_acq_rel)) set_deadline(kSupervision);
}

void QueuePair::advance_drain() {
    static_cast<void>(initiator_queue_.harvest());
    if (!initiated_.is_empty() && !is_flushed()) return;
    is_draining_ = false;
    if (const auto told = observer()) told->on_drained();
}

void QueuePair::advance_flush() {
    harvest();
    const std::uint64_t ended = ended_.load(std::memory_order_relaxed);  // see its declaration
    const Time at = now();
    if (std::exchange(ended_before_, ended) != ended) silent_since_ = at;
    const bool is_done = initiated_.is_empty() && receives_.is_empty();
    // acquire: pairs with the release in end().
    const bool is_unstopped = is_unstopped_.load(std::memory_order_acquire);
    if (!is_done && !is_unstopped && at - silent_since_ < kSilence) return;
    // The device may go on writing to what is posted: its queue pair goes before the program
    // learns that the memory is its own again.
    if (!is_done && is_unstopped && !destroy_hardware()) return;
    is_flushing_ = false;
    with_all_locked([this]() NDV_REQUIRES(receive_mutex_) {
        cancel_rest();
        is_over_ = true;
    });
}

bool QueuePair::destroy_hardware() {
    const std::shared_ptr<HardwareQueuePair> mine = hardware();
    bool is_first = false;
    {
        const base::Lock initiator_lock(initiator_mutex_);
        const base::Lock receive_lock(receive_mutex_);
        is_first = mine->leave();
        // The kernel waits for windows when it destroys what they are bound to.
        for (const auto& [key, weak] : bound_) {
            if (const auto about = weak.lock()) about->leave(mine->serial());
        }
    }
    if (is_first) mine->destroy(mine, shared_from_this());
    return mine->is_destroyed();
}

void QueuePair::cancel_rest() {
    for (const bool is_receive : {false, true}) {
        while (!queue(is_receive).is_empty()) end_head(is_receive, cancelled());
    }
}

}  // namespace ndv::verbs

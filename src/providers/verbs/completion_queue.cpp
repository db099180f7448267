// SPDX-License-Identifier: Apache-2.0
// Taking completions from the device, sleeping for its interrupt, and arming it for others.
#include "providers/verbs/completion_queue.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <mutex>
#include <utility>

#include "providers/verbs/async_events.hpp"
#include "providers/verbs/queue_pair.hpp"
#include "providers/verbs/shared_receive_queue.hpp"

namespace ndv::verbs {
namespace {

// Room in the hardware queue beyond the caller's depth: for requests that end in silence, for those
// whose completion was not polled yet, and for the one that wakes a flushed queue.
constexpr std::uint32_t kHeadroom = 1024;
constexpr int kBatch = 32;

}  // namespace

Expected<std::shared_ptr<HardwareQueue>> HardwareQueue::create(std::shared_ptr<Device> device,
                                                               std::uint32_t entries) {
    ibv_comp_channel* const channel = ibv_create_comp_channel(device->get());
    if (channel == nullptr) return verb_failed("create_cq: ibv_create_comp_channel", errno);
    auto made = std::make_shared<HardwareQueue>(std::move(device), channel);
    if (::fcntl(channel->fd, F_SETFL, O_NONBLOCK) != 0) {
        return verb_failed("create_cq: the interrupt channel", errno);
    }
    made->cq_ = ibv_create_cq(made->device_->get(), static_cast<int>(entries), nullptr, channel, 0);
    if (made->cq_ == nullptr) {
        return verb_failed("create_cq: ibv_create_cq of " + std::to_string(entries) + " entries",
                           errno);
    }
    return made;
}

HardwareQueue::HardwareQueue(std::shared_ptr<Device> device, ibv_comp_channel* channel)
    : device_(std::move(device)), channel_(channel) {
    base::register_descriptor(channel_->fd);
}

HardwareQueue::~HardwareQueue() {
    if (device_->is_foreign()) return;
    if (cq_ != nullptr) ibv_destroy_cq(cq_);
    base::forget_descriptor(channel_->fd);
    ibv_destroy_comp_channel(channel_);
}

bool HardwareQueue::take_events() {
    bool has_any = false;
    ibv_cq* cq = nullptr;
    void* owner = nullptr;
    while (ibv_get_cq_event(channel_, &cq, &owner) == 0) {
        ibv_ack_cq_events(cq, 1);
        has_any = true;
    }
    // relaxed: see is_at_end().
    if (!is_event_awaited(errno)) is_at_end_.store(true, std::memory_order_relaxed);
    return has_any;
}

Expected<std::shared_ptr<core::CompletionQueue>> CompletionQueue::create(
    std::uint32_t depth, std::shared_ptr<AdapterParts> parts) {
    const std::uint32_t entries = std::min(depth + kHeadroom, parts->device->max_cq_entries());
    auto hardware = HardwareQueue::create(parts->device, entries);
    if (!hardware) return Unexpected{hardware.error()};
    base::Descriptor wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!wake) {
        return fail(Status::insufficient_resources, "create_cq: no descriptors",
                    "raise the limit on open files (ulimit -n)", errno);
    }
    const ibv_cq* const handle = (*hardware)->get();
    auto made = std::make_shared<CompletionQueue>(depth, std::move(parts), std::move(*hardware),
                                                  entries, std::move(wake));
    made->parts_->async_events->watch(handle, made);
    return std::shared_ptr<core::CompletionQueue>(std::move(made));
}

CompletionQueue::CompletionQueue(std::uint32_t depth, std::shared_ptr<AdapterParts> parts,
                                 std::shared_ptr<HardwareQueue> hardware, std::uint32_t entries,
                                 base::Descriptor wake)
    : core::CompletionQueue(depth),
      parts_(std::move(parts)),
      hardware_(std::move(hardware)),
      entries_(entries),
      wake_(std::move(wake)) {}

CompletionQueue::~CompletionQueue() {
    if (is_foreign()) return;
    parts_->async_events->forget(hardware_->get());
    if (is_member_.load(std::memory_order_acquire)) {  // pairs with do_arm()
        parts_->progress->remove(*this, hardware_->descriptor());
    }
}

void CompletionQueue::add(const HardwareQueuePair& hardware, QueuePair& qp,
                          const std::shared_ptr<SharedReceiveQueue>& srq) {
    const base::Lock lock(mutex_);
    owners_[hardware.serial()] = &qp;
    if (!srq) return;
    std::erase_if(shared_queues_, [](const auto& one) { return one.second.expired(); });
    sharers_[hardware.number()] = &qp;
    shared_queues_[srq->serial()] = srq;
}

void CompletionQueue::remove(const HardwareQueuePair& hardware) {
    const base::Lock lock(mutex_);
    owners_.erase(hardware.serial());
    if (hardware.has_shared_queue()) sharers_.erase(hardware.number());
}

void CompletionQueue::handle_shared(const WorkId& id, const ibv_wc& done) {
    const auto sharer = sharers_.find(done.qp_num);
    if (sharer != sharers_.end()) {
        sharer->second->handle_shared_receive(id, done);
        return;
    }
    const auto queue = shared_queues_.find(id.serial);
    if (queue == shared_queues_.end()) return;
    if (const auto srq = queue->second.lock()) srq->drop(id.position);
}

std::size_t CompletionQueue::harvest() {
    std::size_t count = 0;
    {
        const base::Lock lock(mutex_);
        count = harvest_locked();
    }
    tell_owed();
    return count;
}

void CompletionQueue::try_harvest() {
    {
        const std::unique_lock lock(mutex_.native(), std::try_to_lock);
        if (lock.owns_lock()) static_cast<void>(harvest_locked());
    }
    tell_owed();
}

std::size_t CompletionQueue::harvest_locked() {
    std::array<ibv_wc, kBatch> batch;
    std::size_t total = 0;
    std::uint32_t serial = 0;
    QueuePair* owner = nullptr;
    while (true) {
        // What the ring has no room for stays in the hardware queue, which has some to spare.
        const int most = static_cast<int>(std::min<std::uint32_t>(kBatch, room()));
        const int count = ibv_poll_cq(hardware_->get(), most, batch.data());
        if (count <= 0) return total;
        for (int i = 0; i < count; ++i) {
            const ibv_wc& done = batch[static_cast<std::size_t>(i)];
            const WorkId id = WorkId::unpack(done.wr_id);
            if ((id.serial & WorkId::kIsShared) != 0) {
                handle_shared(id, done);
                continue;
            }
            if (owner == nullptr || id.serial != serial) {
                const auto found = owners_.find(id.serial);
                // What a queue pair that is gone, or was made anew, left behind.
                owner = found == owners_.end() ? nullptr : found->second;
                serial = id.serial;
            }
            if (owner != nullptr) owner->handle_completion(id, done);
        }
        total += static_cast<std::size_t>(count);
        if (count < most) return total;
    }
}

bool CompletionQueue::make_room(std::uint32_t count) {
    // relaxed: see their declaration.
    const std::uint32_t entries = entries_.load(std::memory_order_relaxed);
    if (outstanding_.load(std::memory_order_relaxed) + count < entries) return true;
    static_cast<void>(harvest());
    return outstanding_.load(std::memory_order_relaxed) + count < entries;
}

void CompletionQueue::break_down() {
    mark_dead(Status::buffer_overflow);
    tell_owed();
}

void CompletionQueue::request_interrupt(core::Notify kind) {
    // Rather one notification too many than one that is lost.
    const bool is_solicited_only =
        kind == core::Notify::solicited && parts_->device->quirks().has_solicited_interrupts;
    static_cast<void>(ibv_req_notify_cq(hardware_->get(), is_solicited_only ? 1 : 0));
}

void CompletionQueue::do_wait(std::chrono::nanoseconds timeout) {
    // However the sleep ends: what completions set off may find no memory, and throw.
    struct Waiter {
        CompletionQueue& queue;
        ~Waiter() {
            // acq_rel: pairs with lease().
            queue.waiters_.fetch_sub(1, std::memory_order_acq_rel);
            // What the interrupt was asked for last, the sleeper has used up.
            queue.parts_->progress->lease_ended();
        }
    };
    waiters_.fetch_add(1, std::memory_order_acq_rel);  // pairs with lease()
    const Waiter waiter{*this};
    sleep_until(now() + timeout);
}

void CompletionQueue::sleep_until(Time until) {
    while (true) {
        static_cast<void>(harvest());
        if (is_wait_over()) return;
        if (spin([this] { static_cast<void>(harvest()); })) return;
        const Sleeper sleeper(*this);
        request_interrupt(core::Notify::any);
        // What came before the request raises no interrupt.
        static_cast<void>(harvest());
        if (is_wait_over()) return;
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - now()).count();
        if (left <= 0) return;
        const int interrupts = hardware_->is_at_end() ? -1 : hardware_->descriptor();
        std::array<pollfd, 2> watched = {pollfd{interrupts, POLLIN, 0},
                                         pollfd{wake_.get(), POLLIN, 0}};
        const Time began = now();
        const int ready = ::poll(watched.data(), watched.size(),
                                 static_cast<int>(std::min<std::int64_t>(left, 1'000'000)));
        note_sleep(now() - began);
        if (ready < 0) return;
        std::uint64_t drained = 0;
        static_cast<void>(!::read(wake_.get(), &drained, sizeof drained));
        // The interrupt may have been meant for an arm, too: push() satisfies an ANY, and
        // nothing says which completion was solicited.
        if (hardware_->take_events() && armed() == core::Notify::solicited) notify();
    }
}

void CompletionQueue::do_arm(core::Notify kind) {
    if (kind == core::Notify::errors) return;
    // acq_rel: of several threads that arm one adds; the destructor sees it.
    if (!is_member_.exchange(true, std::memory_order_acq_rel)) {
        const auto self = std::static_pointer_cast<CompletionQueue>(shared_from_this());
        if (!parts_->progress->add(self, hardware_->descriptor())) {
            is_member_.store(false, std::memory_order_release);  // the adapter is closing
            return;
        }
    }
    request_interrupt(kind);
    static_cast<void>(harvest());
    parts_->progress->arm(*this);
}

void CompletionQueue::on_ready() {
    const bool was_interrupted = hardware_->take_events();
    static_cast<void>(harvest());
    if (hardware_->is_at_end()) parts_->progress->remove(*this, hardware_->descriptor());
    if (was_interrupted && armed() == core::Notify::solicited) notify();
    // An arm for anything is open still when only silent successes came.
    const auto open = armed();
    if (!open || *open == core::Notify::errors) return;
    request_interrupt(*open);
    static_cast<void>(harvest());
}

std::uint32_t CompletionQueue::wanted() const {
    const auto open = armed();
    return open && *open != core::Notify::errors ? std::uint32_t{EPOLLIN} : 0U;
}

Expected<void> CompletionQueue::do_resize(std::uint32_t depth) {
    const core::AdapterInfo& info = parts_->device->info();
    if ((info.adapter_flags & core::adapter_flag::kCqResize) == 0) {
        return core::CompletionQueue::do_resize(depth);
    }
    if (depth > info.max_cq_depth) {
        return fail(Status::invalid_parameter, "resize: depth " + std::to_string(depth) +
                                                   " exceeds the adapter's " +
                                                   std::to_string(info.max_cq_depth));
    }
    const std::uint32_t wanted = std::min(depth + kHeadroom, parts_->device->max_cq_entries());
    // relaxed: see its declaration.
    if (wanted <= entries_.load(std::memory_order_relaxed)) return {};
    const int failed = std::abs(ibv_resize_cq(hardware_->get(), static_cast<int>(wanted)));
    if (failed != 0) return verb_failed("resize: ibv_resize_cq", failed);
    entries_.store(wanted, std::memory_order_relaxed);
    return {};
}

void CompletionQueue::set_notify_timer(std::chrono::nanoseconds delay) {
    if (const auto self = std::static_pointer_cast<CompletionQueue>(weak_from_this().lock())) {
        parts_->progress->set_deadline(self, now() + delay);
    }
}

void CompletionQueue::wake() noexcept {
    const std::uint64_t one = 1;
    static_cast<void>(!::write(wake_.get(), &one, sizeof one));
}

}  // namespace ndv::verbs

// SPDX-License-Identifier: Apache-2.0
// The asynchronous events of a device, on their way to the objects that they are about.
#include "providers/verbs/async_events.hpp"

#include <fcntl.h>
#include <sys/epoll.h>

#include <cerrno>
#include <string>
#include <utility>
#include <vector>

#include "base/log.hpp"
#include "providers/verbs/completion_queue.hpp"
#include "providers/verbs/queue_pair.hpp"
#include "providers/verbs/shared_receive_queue.hpp"

namespace ndv::verbs {

Expected<void> AsyncEvents::start(core::Progress& progress) {
    const int fd = device_->get()->async_fd;
    if (::fcntl(fd, F_SETFL, O_NONBLOCK) != 0) {
        return verb_failed("open: the device's event descriptor", errno);
    }
    return progress.add(shared_from_this(), fd);
}

void AsyncEvents::watch(const ibv_qp* qp, std::weak_ptr<QueuePair> owner) {
    const base::Lock lock(mutex_);
    queue_pairs_[qp] = std::move(owner);
}

void AsyncEvents::watch(const ibv_cq* cq, std::weak_ptr<CompletionQueue> owner) {
    const base::Lock lock(mutex_);
    queues_[cq] = std::move(owner);
}

void AsyncEvents::watch(const ibv_srq* srq, std::weak_ptr<SharedReceiveQueue> owner) {
    const base::Lock lock(mutex_);
    shared_queues_[srq] = std::move(owner);
}

void AsyncEvents::forget(const void* handle) {
    const base::Lock lock(mutex_);
    queue_pairs_.erase(handle);
    queues_.erase(handle);
    shared_queues_.erase(handle);
}

std::shared_ptr<QueuePair> AsyncEvents::find(const ibv_qp* qp) {
    const base::Lock lock(mutex_);
    const auto found = queue_pairs_.find(qp);
    return found == queue_pairs_.end() ? nullptr : found->second.lock();
}

std::shared_ptr<CompletionQueue> AsyncEvents::find(const ibv_cq* cq) {
    const base::Lock lock(mutex_);
    const auto found = queues_.find(cq);
    return found == queues_.end() ? nullptr : found->second.lock();
}

std::shared_ptr<SharedReceiveQueue> AsyncEvents::find(const ibv_srq* srq) {
    const base::Lock lock(mutex_);
    const auto found = shared_queues_.find(srq);
    return found == shared_queues_.end() ? nullptr : found->second.lock();
}

std::uint32_t AsyncEvents::wanted() const { return EPOLLIN; }

void AsyncEvents::on_ready() {
    ibv_async_event event{};
    while (ibv_get_async_event(device_->get(), &event) == 0) {
        dispatch(event);
        // The destruction of what it is about waits for this.
        ibv_ack_async_event(&event);
    }
}

void AsyncEvents::dispatch(const ibv_async_event& event) {
    switch (event.event_type) {
        case IBV_EVENT_CQ_ERR:
            if (const auto queue = find(event.element.cq)) queue->break_down();
            break;
        case IBV_EVENT_QP_FATAL:
        case IBV_EVENT_QP_REQ_ERR:
        case IBV_EVENT_QP_ACCESS_ERR:
        case IBV_EVENT_PATH_MIG_ERR:
            if (const auto qp = find(event.element.qp)) qp->break_down();
            break;
        case IBV_EVENT_COMM_EST:
            if (const auto qp = find(event.element.qp)) qp->hear_peer();
            break;
        case IBV_EVENT_SRQ_LIMIT_REACHED:
            if (const auto queue = find(event.element.srq)) queue->handle_limit();
            break;
        case IBV_EVENT_SRQ_ERR:
            if (const auto queue = find(event.element.srq)) queue->break_down();
            break;
        case IBV_EVENT_DEVICE_FATAL: {
            std::vector<std::shared_ptr<QueuePair>> all;
            {
                const base::Lock lock(mutex_);
                for (const auto& [handle, owner] : queue_pairs_) {
                    if (auto qp = owner.lock()) all.push_back(std::move(qp));
                }
            }
            for (const auto& qp : all) qp->break_down();
            break;
        }
        case IBV_EVENT_SQ_DRAINED:
        case IBV_EVENT_PATH_MIG:
        case IBV_EVENT_PORT_ACTIVE:
        case IBV_EVENT_PORT_ERR:
        case IBV_EVENT_LID_CHANGE:
        case IBV_EVENT_PKEY_CHANGE:
        case IBV_EVENT_SM_CHANGE:
        case IBV_EVENT_QP_LAST_WQE_REACHED:
        case IBV_EVENT_CLIENT_REREGISTER:
        case IBV_EVENT_GID_CHANGE:
        case IBV_EVENT_WQ_FATAL:
            break;
        default:  // of a later version of rdma-core
            base::log(base::LogLevel::info, "verbs",
                      device_->name() + " reports event " + std::to_string(event.event_type) +
                          ", which is not known here and is ignored");
            break;
    }
}

}  // namespace ndv::verbs

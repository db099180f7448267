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
    progress_ = &progress;
    return progress.add(shared_from_this(), fd);
}

void AsyncEvents::watch(const void* handle, std::weak_ptr<core::Object> owner) {
    const base::Lock lock(mutex_);
    owners_[handle] = std::move(owner);
}

void AsyncEvents::forget(const void* handle) {
    const base::Lock lock(mutex_);
    owners_.erase(handle);
}

template <typename Owner>
Owner* AsyncEvents::find(const void* handle, std::shared_ptr<core::Object>& about) {
    const base::Lock lock(mutex_);
    const auto found = owners_.find(handle);
    if (found != owners_.end()) about = found->second.lock();
    return static_cast<Owner*>(about.get());
}

std::uint32_t AsyncEvents::wanted() const { return EPOLLIN; }

void AsyncEvents::on_ready() {
    // However the handling ends: the destruction of what the event is about waits for this.
    struct Acknowledgement {
        ibv_async_event event{};
        ~Acknowledgement() { ibv_ack_async_event(&event); }
    };
    ibv_async_event event{};
    while (ibv_get_async_event(device_->get(), &event) == 0) {
        std::shared_ptr<core::Object> about;  // maybe the last reference: goes behind that
        const Acknowledgement acknowledgement{event};
        dispatch(event, about);
    }
    // The descriptor of a removed device has an error for ever.
    if (!is_event_awaited(errno)) progress_->remove(*this, device_->get()->async_fd);
}

void AsyncEvents::dispatch(const ibv_async_event& event, std::shared_ptr<core::Object>& about) {
    switch (event.event_type) {
        case IBV_EVENT_CQ_ERR:
            if (auto* const queue = find<CompletionQueue>(event.element.cq, about))
                queue->break_down();
            break;
        case IBV_EVENT_QP_FATAL:
        case IBV_EVENT_QP_REQ_ERR:
        case IBV_EVENT_QP_ACCESS_ERR:
        case IBV_EVENT_PATH_MIG_ERR:
            if (auto* const qp = find<QueuePair>(event.element.qp, about)) qp->break_down();
            break;
        case IBV_EVENT_COMM_EST:
            if (auto* const qp = find<QueuePair>(event.element.qp, about)) qp->hear_peer();
            break;
        case IBV_EVENT_SRQ_LIMIT_REACHED:
            if (auto* const queue = find<SharedReceiveQueue>(event.element.srq, about)) {
                queue->handle_limit();
            }
            break;
        case IBV_EVENT_SRQ_ERR:
            if (auto* const queue = find<SharedReceiveQueue>(event.element.srq, about)) {
                queue->break_down();
            }
            break;
        case IBV_EVENT_DEVICE_FATAL: {
            base::log(base::LogLevel::info, "verbs",
                      device_->name() + " was removed, or has failed: its connections end");
            std::vector<std::shared_ptr<core::Object>> all;
            {
                const base::Lock lock(mutex_);
                for (const auto& [handle, owner] : owners_) all.push_back(owner.lock());
            }
            for (const auto& one : all) {
                if (auto* const qp = dynamic_cast<QueuePair*>(one.get())) qp->break_down();
            }
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

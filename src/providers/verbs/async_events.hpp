// SPDX-License-Identifier: Apache-2.0
// What a device reports by itself: broken queues, broken queue pairs, its own end.
#pragma once

#include <memory>
#include <unordered_map>

#include "base/expected.hpp"
#include "base/mutex.hpp"
#include "core/progress.hpp"
#include "providers/verbs/device.hpp"

namespace ndv::verbs {

class CompletionQueue;
class QueuePair;
class SharedReceiveQueue;

class AsyncEvents final : public core::Member, public std::enable_shared_from_this<AsyncEvents> {
public:
    explicit AsyncEvents(std::shared_ptr<Device> device) : device_(std::move(device)) {}
    // From now on on the progress thread.
    [[nodiscard]] Expected<void> start(core::Progress& progress);

    // The owner that is notified of a handle's events; forget() it before it is destroyed.
    void watch(const ibv_qp* qp, std::weak_ptr<QueuePair> owner);
    void watch(const ibv_cq* cq, std::weak_ptr<CompletionQueue> owner);
    void watch(const ibv_srq* srq, std::weak_ptr<SharedReceiveQueue> owner);
    void forget(const void* handle);

    // Member.
    void on_ready() override;
    void on_deadline() override {}
    [[nodiscard]] std::uint32_t wanted() const override;

private:
    void dispatch(const ibv_async_event& event);
    [[nodiscard]] std::shared_ptr<QueuePair> find(const ibv_qp* qp);
    [[nodiscard]] std::shared_ptr<CompletionQueue> find(const ibv_cq* cq);
    [[nodiscard]] std::shared_ptr<SharedReceiveQueue> find(const ibv_srq* srq);

    const std::shared_ptr<Device> device_;
    base::Mutex mutex_;
    std::unordered_map<const void*, std::weak_ptr<QueuePair>> queue_pairs_ NDV_GUARDED_BY(mutex_);
    std::unordered_map<const void*, std::weak_ptr<CompletionQueue>> queues_ NDV_GUARDED_BY(mutex_);
    std::unordered_map<const void*, std::weak_ptr<SharedReceiveQueue>> shared_queues_
        NDV_GUARDED_BY(mutex_);
};

}  // namespace ndv::verbs

// SPDX-License-Identifier: Apache-2.0
// Checks of shared receive queues, and the queue pairs made with them.
#include "core/shared_receive_queue.hpp"

#include <string>
#include <utility>

#include "core/buffers.hpp"
#include "core/completion_queue.hpp"
#include "core/queue_pair.hpp"

namespace ndv::core {

SharedReceiveQueue::SharedReceiveQueue(std::shared_ptr<ProtectionDomain> pd,
                                       const SharedReceiveQueueLimits& limits,
                                       RequestContexts* contexts, OnNotify on_notify)
    : pd_(std::move(pd)),
      max_sge_(limits.max_sge),
      depth_(limits.depth),
      receives_(Outstanding::make(contexts)),
      on_notify_(std::move(on_notify)) {}

SharedReceiveQueue::~SharedReceiveQueue() {
    if (is_foreign()) static_cast<void>(receives_.release());
}

void SharedReceiveQueue::feed(CompletionQueue& cq) {
    const base::Lock lock(fed_mutex_);
    if (fed_[&cq]++ == 0) cq.promise(depth());
}

void SharedReceiveQueue::leave(CompletionQueue& cq) {
    const base::Lock lock(fed_mutex_);
    if (--fed_[&cq] > 0) return;
    fed_.erase(&cq);
    cq.withdraw(depth());
}

std::vector<std::shared_ptr<CompletionQueue>> SharedReceiveQueue::fed() const {
    std::vector<std::shared_ptr<CompletionQueue>> queues;
    const base::Lock lock(fed_mutex_);
    for (const auto& [cq, users] : fed_) {
        queues.push_back(std::static_pointer_cast<CompletionQueue>(cq->shared_from_this()));
    }
    return queues;
}

Status SharedReceiveQueue::receive(const ReceiveRequest& request) {
    if (is_closed()) return Status::file_forced_closed;
    if (request.segments.size() > max_sge_) return Status::data_overrun;
    const std::uint64_t length = total_length(request.segments);
    if (length > pd_->info().max_transfer_length) return Status::buffer_overflow;
    Buffers buffers;
    const Status local = buffers.acquire<false>(*pd_, request.segments, access::kLocalWrite);
    if (local != Status::success) return local;
    const Status posted = receives_->post(
        depth(), [] {},
        [&] { return do_receive(request, buffers.get(), static_cast<std::uint32_t>(length)); });
    if (posted == Status::success) buffers.handed_over();
    return posted;
}

Error SharedReceiveQueue::explain(Status status, const ReceiveRequest& request) const {
    Error error = explain_receive(status, request, *pd_, max_sge_, "create_srq(max_sge=...)");
    if (status == Status::file_forced_closed) {
        error.what = "receive: the shared receive queue is closed";
    } else if (status == Status::no_more_entries) {
        error.what = "receive: the shared receive queue is full (" + std::to_string(depth()) +
                     " receives outstanding)";
        error.hint = "poll completions first, or modify(depth=...)";
    }
    return error;
}

Expected<void> SharedReceiveQueue::modify(std::uint32_t depth, std::uint32_t notify_threshold) {
    if (depth > pd_->info().max_srq_depth) {
        return fail(Status::invalid_parameter, "modify: depth " + std::to_string(depth) +
                                                   " exceeds the adapter's " +
                                                   std::to_string(pd_->info().max_srq_depth));
    }
    auto modified = do_modify(depth, notify_threshold);
    if (!modified || depth == 0) return modified;
    const base::Lock lock(fed_mutex_);
    for (const auto& [cq, users] : fed_) {
        cq->withdraw(depth_);
        cq->promise(depth);
    }
    depth_.store(depth, std::memory_order_relaxed);
    return {};
}

Expected<std::shared_ptr<SharedReceiveQueue>> ProtectionDomain::create_srq(
    const SharedReceiveQueueLimits& limits, RequestContexts* contexts,
    std::function<void(Status)> on_notify) {
    if (is_closed()) return closed("create_srq", "protection domain");
    if (info().max_srq_depth == 0) {
        return fail(Status::not_supported, "create_srq: the adapter has no shared receive queues",
                    "adapter.info.max_srq_depth tells");
    }
    if (limits.depth == 0 || limits.depth > info().max_srq_depth ||
        limits.max_sge > info().max_receive_request_sge) {
        return fail(Status::invalid_parameter,
                    "create_srq: depth " + std::to_string(limits.depth) + " is not in 1 to " +
                        std::to_string(info().max_srq_depth) + ", or max_sge " +
                        std::to_string(limits.max_sge) + " exceeds the adapter's " +
                        std::to_string(info().max_receive_request_sge));
    }
    return adopted(do_create_srq(limits, contexts, std::move(on_notify)));
}

}  // namespace ndv::core

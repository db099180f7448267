// SPDX-License-Identifier: Apache-2.0
// The shared receive queue: receives that any of its queue pairs may take. Source: NDKPI SRQ
// dispatch.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "base/expected.hpp"
#include "base/live.hpp"
#include "base/mutex.hpp"
#include "core/memory.hpp"
#include "core/object.hpp"
#include "core/outstanding.hpp"
#include "core/types.hpp"

namespace ndv::core {

struct SharedReceiveQueueLimits {
    std::uint32_t depth = 0;
    std::uint32_t max_sge = 0;
    // Above 0: armed from the start, and due when the number of receives drops below it.
    std::uint32_t notify_threshold = 0;
};

class SharedReceiveQueue : public Object, base::Live<base::LiveKind::shared_receive_queue> {
public:
    // Called at most once per arming, from any thread, without locks.
    using OnNotify = std::function<void(Status)>;

    SharedReceiveQueue(std::shared_ptr<ProtectionDomain> pd, const SharedReceiveQueueLimits& limits,
                       RequestContexts* contexts, OnNotify on_notify);
    ~SharedReceiveQueue() override;

    // Calls are serialised by the caller. A status other than success: nothing was posted.
    [[nodiscard]] Status receive(const ReceiveRequest& request);
    [[nodiscard]] Error explain(Status status, const ReceiveRequest& request) const;
    // 0 keeps what is. A threshold arms one notification, which is due at once when fewer receives
    // are queued. BUFFER_OVERFLOW, and nothing changed: more are queued than the new depth.
    [[nodiscard]] Expected<void> modify(std::uint32_t depth, std::uint32_t notify_threshold);

    [[nodiscard]] std::uint32_t depth() const { return depth_.load(std::memory_order_relaxed); }
    [[nodiscard]] std::uint32_t max_sge() const { return max_sge_; }
    [[nodiscard]] const std::shared_ptr<ProtectionDomain>& pd() const { return pd_; }
    [[nodiscard]] RequestContexts* contexts() const { return receives_->contexts(); }
    // Also counts receives that queue pairs have taken and no program has polled.
    [[nodiscard]] Outstanding& receives() { return *receives_; }

    // A queue pair that takes from here completes there; again: it does not any more.
    void feed(CompletionQueue& cq);
    void leave(CompletionQueue& cq);
    // The completion queues that such queue pairs have now.
    [[nodiscard]] std::vector<std::shared_ptr<CompletionQueue>> fed() const;

protected:
    // `buffers` carry references that the provider owns once it returns success.
    [[nodiscard]] virtual Status do_receive(const ReceiveRequest& request,
                                            std::span<const LocalBuffer> buffers,
                                            std::uint32_t length) = 0;
    [[nodiscard]] virtual Expected<void> do_modify(std::uint32_t depth,
                                                   std::uint32_t notify_threshold) = 0;
    void notify(Status status) const {
        if (on_notify_ && !is_closed()) on_notify_(status);
    }
    void do_close() override {}

private:
    const std::shared_ptr<ProtectionDomain> pd_;
    const std::uint32_t max_sge_;
    std::atomic<std::uint32_t> depth_;
    Outstanding::OfQueue receives_;
    mutable base::Mutex fed_mutex_;
    // How many queue pairs complete there.
    std::map<CompletionQueue*, std::uint32_t> fed_ NDV_GUARDED_BY(fed_mutex_);
    const OnNotify on_notify_;
};

}  // namespace ndv::core

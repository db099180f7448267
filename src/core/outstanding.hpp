// SPDX-License-Identifier: Apache-2.0
// How many requests of one queue are outstanding: posted, and their completions not polled yet. A
// queue takes no more than its depth, so that a completion queue as deep as all its queues together
// never overruns.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/live.hpp"
#include "core/types.hpp"

namespace ndv::core {

// Lives as long as its queue or any of the requests, whose completions may outlive the queue.
class Outstanding : base::Live<base::LiveKind::outstanding> {
public:
    struct Leave {
        void operator()(Outstanding* requests) const { requests->leave(); }
    };
    using OfQueue = std::unique_ptr<Outstanding, Leave>;

    // For a queue. Keeps a reference to `contexts`, which may be null.
    [[nodiscard]] static OfQueue make(RequestContexts* contexts) {
        return OfQueue(new Outstanding(contexts));
    }
    // Before the first request: they are receives that were posted to a shared queue.
    void share(Outstanding& queue) { shared_ = &queue; }

    // acquire: pairs with the releases in settle() and end_silently(): what the ended requests used
    // is free.
    [[nodiscard]] std::uint32_t count() const {
        return static_cast<std::uint32_t>(posted_.load(std::memory_order_relaxed) -
                                          silent_.load(std::memory_order_acquire) -
                                          ended_.load(std::memory_order_acquire));
    }
    // Before a request is posted, because another thread may poll its completion at once. One
    // thread at a time, so no locked instruction. relaxed: that thread's own.
    void begin() {
        posted_.store(posted_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    }
    // The poster's: the request that was begun last was not posted.
    void take_back() {
        posted_.store(posted_.load(std::memory_order_relaxed) - 1, std::memory_order_relaxed);
    }
    // From any thread: as many completions were polled, or will not come.
    void end(std::uint64_t count = 1) {
        if (shared_ != nullptr) shared_->end(count);
        settle(count);
    }
    // From the thread that steps, which is one at a time: none will come.
    void end_silently() {
        // release: pairs with count().
        silent_.store(silent_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
    }
    // Posts by `post`, unless as many as `depth` are outstanding even after `look_for_ends`.
    template <typename LookForEnds, typename Post>
    [[nodiscard]] Status post(std::uint32_t depth, const LookForEnds& look_for_ends,
                              const Post& post) {
        if (count() >= depth) [[unlikely]] {
            look_for_ends();
            if (count() >= depth) return Status::no_more_entries;
        }
        begin();
        Status status = Status::insufficient_resources;
        try {
            status = post();
        } catch (...) {  // no memory
            end();
            throw;
        }
        if (status != Status::success) end();
        return status;
    }
    [[nodiscard]] RequestContexts* contexts() const { return contexts_; }

private:
    // Above any number of requests.
    static constexpr std::uint64_t kGone = 1ULL << 63U;

    explicit Outstanding(RequestContexts* contexts) : contexts_(contexts) {
        if (contexts_ != nullptr) contexts_->add_reference();
    }
    ~Outstanding() {
        if (contexts_ != nullptr) contexts_->release();
    }
    // The queue has gone: no thread posts or steps any more.
    void leave() {
        // relaxed: ordered by that.
        settle(kGone -
               (posted_.load(std::memory_order_relaxed) - silent_.load(std::memory_order_relaxed)));
    }
    void settle(std::uint64_t count) {
        // acq_rel: pairs with itself and count(): the last one sees what all others did.
        if (ended_.fetch_add(count, std::memory_order_acq_rel) + count == kGone) delete this;
    }

    RequestContexts* const contexts_;
    Outstanding* shared_ = nullptr;
    // How many ever: the poster's, the stepper's, and that of any thread.
    std::atomic<std::uint64_t> posted_{0};
    std::atomic<std::uint64_t> silent_{0};
    std::atomic<std::uint64_t> ended_{0};
};

// The requests of completions that were polled, after the last look at their contexts.
inline void end_requests(std::span<const Completion> polled) {
    for (std::size_t i = 0, next = 0; i < polled.size(); i = next) {
        Outstanding* const requests = polled[i].requests;
        while (next < polled.size() && polled[next].requests == requests) ++next;
        requests->end(next - i);
    }
}

// A completion that no program will poll: its queue is dead or gone.
inline void discard(const Completion& completion) {
    if (completion.context_is_object) {
        completion.requests->contexts()->retire(completion.context);
    }
    completion.requests->end();
}

}  // namespace ndv::core

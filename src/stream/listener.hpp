// SPDX-License-Identifier: Apache-2.0
// A listening stream socket: answers requests in the background, so that a peer's connect ends
// before accept() is called, and keeps connections until they are accepted. Places hold all of
// them; the peer that has been silent longest gives its place up to one that waits.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>

#include "base/live.hpp"
#include "base/mutex.hpp"
#include "stream/stream.hpp"

namespace ndv::stream {

class StreamListener final : public core::Object, base::Live<base::LiveKind::stream_listener> {
public:
    // From any thread, without locks. The request waits for inspect_complete().
    using OnInspect = std::function<void(std::uint64_t id, const core::SocketAddress& local,
                                         const core::SocketAddress& peer)>;
    // A request that was inspected is gone before its connection was made.
    using OnAbort = std::function<void(std::uint64_t id)>;
    // A connection may be taken, or the listener was closed.
    using OnReady = std::function<void()>;

    // As many as the backlog, but at least so many, lest a few silent ones be all.
    static constexpr std::uint32_t kPlaces = 64;
    // A peer that was answered has so long to begin.
    static constexpr std::chrono::seconds kAcceptTime{10};
    // So long the application may think about a request.
    static constexpr std::chrono::seconds kInspectTime{60};

    [[nodiscard]] static Expected<std::shared_ptr<StreamListener>> create(
        const std::shared_ptr<core::Adapter>& adapter, std::shared_ptr<Worker> worker,
        const core::SocketAddress& address, const StreamOptions& options, std::uint32_t backlog);

    StreamListener(const std::shared_ptr<core::Adapter>& adapter, std::shared_ptr<Worker> worker,
                   const StreamOptions& options, std::uint32_t backlog);
    ~StreamListener() override;

    // Takes requests from now on; those that have come wait.
    void start(OnInspect on_inspect, OnAbort on_abort, OnReady on_ready);
    void inspect_complete(std::uint64_t id, bool accepts);

    // Null: none came in time.
    [[nodiscard]] Expected<std::shared_ptr<Stream>> accept(std::chrono::nanoseconds timeout);
    // Readable when accept() would not wait; see Stream.
    [[nodiscard]] Expected<std::shared_ptr<Readiness>> descriptor();
    [[nodiscard]] Expected<core::SocketAddress> local_address() const;
    // Of connections that come from now on.
    void set_options(const StreamOptions& options);
    void set_backlog(std::uint32_t backlog);

private:
    using Clock = Worker::Clock;
    struct Since {
        Clock::time_point at;
        std::uint64_t look = 0;  // looks_ by then
    };
    struct Inspected {
        std::shared_ptr<core::Connector> connector;
        Since since;
    };
    struct Made {
        std::shared_ptr<Stream> stream;
        std::uint64_t id = 0;  // of its inspection; 0: none
        Since since;
    };
    // One that has lost its place; it ends without the mutex.
    struct Evicted {
        std::shared_ptr<Stream> stream;
        std::shared_ptr<core::Connector> connector;
        std::uint64_t id = 0;  // of its inspection; 0: none
    };

    void do_close() override;
    // Any thread.
    void wake();
    void withdraw(std::uint64_t id);
    // The worker's thread.
    void take_requests();
    [[nodiscard]] bool find_place();
    [[nodiscard]] bool evict(Evicted& out) NDV_REQUIRES(mutex_);
    void look_again() NDV_REQUIRES(mutex_);
    [[nodiscard]] bool is_backlog_full() const NDV_REQUIRES(mutex_) {
        return ready_.size() >= backlog_;
    }
    [[nodiscard]] bool has_place() const NDV_REQUIRES(mutex_) {
        return ready_.size() + making_.size() + inspected_.size() < std::max(backlog_, kPlaces);
    }
    [[nodiscard]] Since now() const NDV_REQUIRES(mutex_) { return {Clock::now(), looks_}; }
    [[nodiscard]] Worker::Prepared prepare_wake();
    void make(const std::shared_ptr<core::Connector>& connector, std::uint64_t id);
    void on_made(std::uint64_t key, std::uint32_t events);

    const std::weak_ptr<core::Adapter> adapter_;
    const std::shared_ptr<Worker> worker_;
    std::shared_ptr<core::Listener> listener_;
    mutable base::Mutex mutex_;
    std::condition_variable available_;
    StreamOptions options_ NDV_GUARDED_BY(mutex_);
    std::uint32_t backlog_ NDV_GUARDED_BY(mutex_);
    bool is_started_ NDV_GUARDED_BY(mutex_) = false;
    // Requests that came, and those that were taken: a difference waits for places.
    std::uint64_t arrived_ NDV_GUARDED_BY(mutex_) = 0;
    std::uint64_t taken_ NDV_GUARDED_BY(mutex_) = 0;
    std::uint64_t looks_ NDV_GUARDED_BY(mutex_) = 0;
    bool will_look_ NDV_GUARDED_BY(mutex_) = false;
    Worker::Prepared waking_ NDV_GUARDED_BY(mutex_);  // none while it is queued
    std::uint64_t next_key_ NDV_GUARDED_BY(mutex_) = 1;
    // By rising keys: the oldest come first.
    std::map<std::uint64_t, Inspected> inspected_ NDV_GUARDED_BY(mutex_);
    std::map<std::uint64_t, Made> making_ NDV_GUARDED_BY(mutex_);
    std::deque<std::shared_ptr<Stream>> ready_ NDV_GUARDED_BY(mutex_);
    OnInspect on_inspect_ NDV_GUARDED_BY(mutex_);
    OnAbort on_abort_ NDV_GUARDED_BY(mutex_);
    OnReady on_ready_ NDV_GUARDED_BY(mutex_);
    std::shared_ptr<Readiness> readiness_ NDV_GUARDED_BY(mutex_);
};

}  // namespace ndv::stream

// SPDX-License-Identifier: Apache-2.0
// What the streams of one adapter share: a thread for what may not happen on the thread that
// noticed it and for deadlines, the streams that an adapter's end closes, and those that were
// closed and still have to deliver what was sent.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "base/expected.hpp"
#include "base/mutex.hpp"
#include "base/pruning.hpp"
#include "core/object.hpp"

namespace ndv::stream {

// What calls `function` with the object, and with the arguments that it is given, unless the object
// has gone by then.
template <typename Value, typename Function>
[[nodiscard]] auto while_alive(Value& object, Function function) {
    return [weak = object.weak_from_this(), function](auto... given) {
        if (const auto alive = weak.lock()) function(static_cast<Value&>(*alive), given...);
    };
}

class Worker {
public:
    using Clock = std::chrono::steady_clock;
    using Task = std::function<void()>;
    using Tasks = std::multimap<Clock::time_point, Task>;
    // A task that is posted without an allocation.
    using Prepared = Tasks::node_type;

    Worker() = default;
    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;
    ~Worker();

    // Starts the thread, unless it runs: a stream that connects or listens relies on it from then
    // on. An error: there is no thread to be had.
    [[nodiscard]] Expected<void> start();

    // After start(), any thread. Tasks run one at a time, without locks. One that finds no memory
    // (std::bad_alloc) is run once more in a while. Dropped after stop().
    void post(Task task) { post_at(Clock::time_point::min(), std::move(task)); }
    [[nodiscard]] static Prepared prepare(Task task);
    void post(Prepared task);
    void post_at(Clock::time_point at, Task task);

    // A stream that lives on without another reference, until it takes itself out.
    void keep(const std::shared_ptr<core::Object>& stream);
    void let_go(const core::Object& stream);

    // A stream that end() closes, unless it has gone by then.
    void add(const std::shared_ptr<core::Object>& stream);
    // Closes them, waits until what was sent has arrived, as far as the peers take it within
    // `linger`, and stops.
    void end(std::chrono::nanoseconds linger);

    // Ends the thread, after the task that runs; from the thread itself, without waiting.
    void stop();

private:
    void run();

    const unsigned fork_generation_ = base::fork_generation();
    base::Mutex mutex_;
    std::condition_variable changed_;
    std::condition_variable let_go_;
    std::thread thread_ NDV_GUARDED_BY(mutex_);
    Tasks tasks_ NDV_GUARDED_BY(mutex_);
    std::map<const core::Object*, std::shared_ptr<core::Object>> kept_ NDV_GUARDED_BY(mutex_);
    std::vector<std::weak_ptr<core::Object>> added_ NDV_GUARDED_BY(mutex_);
    base::Pruning pruning_ NDV_GUARDED_BY(mutex_);
    bool is_stopped_ NDV_GUARDED_BY(mutex_) = false;
};

}  // namespace ndv::stream

// SPDX-License-Identifier: Apache-2.0
// What all Python objects of one opened adapter share: the adapter itself, which is closed when
// the last of them is gone, its callback thread, and what must be woken when it closes.
#pragma once

#include <pybind11/pybind11.h>
#include <sys/types.h>

#include <atomic>
#include <exception>
#include <functional>
#include <memory>
#include <unordered_set>
#include <vector>

#include "bindings/python/callbacks.hpp"
#include "core/adapter.hpp"
#include "stream/worker.hpp"

namespace ndv::bindings {

// Opened once, when an adapter is closed; waited for without the GIL.
class ClosedGate {
public:
    void open() {
        is_open_.store(true, std::memory_order_release);  // pairs with wait() and is_open()
        is_open_.notify_all();
    }
    void wait() const { is_open_.wait(false, std::memory_order_acquire); }
    [[nodiscard]] bool is_open() const { return is_open_.load(std::memory_order_acquire); }

private:
    std::atomic<bool> is_open_{false};
};

// What a Python object lets go of when its adapter has been closed, so that nothing native remains
// although Python variables do. With the GIL.
class Dependent {
public:
    Dependent() = default;
    Dependent(const Dependent&) = delete;
    Dependent& operator=(const Dependent&) = delete;
    virtual void drop() = 0;

protected:
    ~Dependent() = default;
};

// All of it is guarded by the GIL.
class AdapterState {
public:
    // Opened adapters are closed when the interpreter ends.
    [[nodiscard]] static std::shared_ptr<AdapterState> make(std::shared_ptr<core::Adapter> native);

    explicit AdapterState(std::shared_ptr<core::Adapter> native);
    AdapterState(const AdapterState&) = delete;
    AdapterState& operator=(const AdapterState&) = delete;
    ~AdapterState();

    // Raises when it cannot be used.
    [[nodiscard]] const std::shared_ptr<core::Adapter>& get() const;
    [[nodiscard]] bool is_closed() const { return phase_ != Phase::open; }
    [[nodiscard]] bool is_foreign() const;
    [[nodiscard]] pid_t owner() const { return owner_; }

    // Blocks; a second caller waits for the first. Raises inside a callback of this adapter.
    void close();

    // The library opened it for itself and shares it: that it is dropped open is no mistake.
    void allow_drop() { may_be_dropped_ = true; }
    // A ResourceWarning, as files and sockets give one, unless it is closed.
    void warn_if_open() noexcept;

    // The queue of the callback thread, which this starts if it does not run yet.
    [[nodiscard]] std::weak_ptr<core::Adapter> with_callbacks();
    [[nodiscard]] bool is_callback_thread() const { return loop_->is_this_thread(); }

    // What the adapter's streams share, made with the first. Raises as get().
    [[nodiscard]] const std::shared_ptr<stream::Worker>& streams();

    void add_dependent(Dependent& dependent) { dependents_.insert(&dependent); }
    void remove_dependent(Dependent& dependent) { dependents_.erase(&dependent); }

    // Called once when close() begins, unless `owner` is gone: wakes what waits in Python.
    void on_close(std::weak_ptr<void> owner, std::function<void()> function);

private:
    enum class Phase { open, closing, closed };

    // Calls what on_close() was given; what fails first is noted.
    void tell_of_end(std::exception_ptr& failure);

    Phase phase_ = Phase::open;
    bool may_be_dropped_ = false;
    std::shared_ptr<core::Adapter> native_;
    const std::shared_ptr<CallbackLoop> loop_;
    const std::shared_ptr<ClosedGate> gate_;
    std::shared_ptr<stream::Worker> streams_;
    const pid_t owner_;
    struct OnClose {
        std::weak_ptr<void> owner;
        std::function<void()> function;
    };
    std::vector<OnClose> on_close_;
    std::unordered_set<Dependent*> dependents_;
};

// Closes every open adapter and ends callback threads; for the interpreter's exit.
void close_all_adapters();

}  // namespace ndv::bindings

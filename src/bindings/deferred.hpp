// SPDX-License-Identifier: Apache-2.0
// Work that needs the GIL, asked for on threads that must not take it: dropping Python references
// and handing buffers back. The next call into the extension that holds the GIL does it.
#pragma once

#include <pybind11/pybind11.h>

#include <atomic>
#include <memory>
#include <utility>

namespace ndv::bindings {

namespace py = pybind11;

// One piece of such work; an object is deferred at most once at a time.
class Deferred {
public:
    Deferred() = default;
    Deferred(const Deferred&) = delete;
    Deferred& operator=(const Deferred&) = delete;

protected:
    ~Deferred() = default;

private:
    friend void defer(Deferred& work) noexcept;
    friend void run_deferred_now() noexcept;
    // With the GIL; may free this.
    virtual void run() noexcept = 0;

    Deferred* next_ = nullptr;
};

extern constinit std::atomic<Deferred*> deferred_head;

// Any thread, with or without the GIL.
void defer(Deferred& work) noexcept;
void run_deferred_now() noexcept;

// With the GIL. relaxed: a miss is made good by the next call; the exchange inside synchronises.
inline void run_deferred() noexcept {
    if (deferred_head.load(std::memory_order_relaxed) != nullptr) run_deferred_now();
}

// A Python object that native closures may copy and drop on any thread.
class SharedObject final : Deferred {
public:
    // With the GIL, as all but the count of calls.
    [[nodiscard]] static std::shared_ptr<SharedObject> make(py::object object);
    // Null when the garbage collector took it.
    [[nodiscard]] PyObject* get() const { return object_; }
    // For the one Python object that keeps what calls this. An object with a call under way is not
    // shown: the program hears of what happened before its garbage is looked for.
    int traverse(visitproc visit, void* arg) const {
        if (calls_.load(std::memory_order_relaxed) == 0) Py_VISIT(object_);
        return 0;
    }
    void clear() noexcept { Py_CLEAR(object_); }

private:
    friend std::default_delete<SharedObject>;
    friend class PendingCall;
    explicit SharedObject(PyObject* object) : object_(object) {}
    ~SharedObject() = default;
    void run() noexcept override;

    PyObject* object_;
    std::atomic<unsigned> calls_{0};
};

// What a queued call holds of the object that it is going to call.
class PendingCall {
public:
    explicit PendingCall(std::shared_ptr<SharedObject> object) : object_(std::move(object)) {
        object_->calls_.fetch_add(1, std::memory_order_relaxed);
    }
    PendingCall(const PendingCall& other) : PendingCall(other.object_) {}
    PendingCall& operator=(const PendingCall&) = delete;
    ~PendingCall() { object_->calls_.fetch_sub(1, std::memory_order_relaxed); }
    [[nodiscard]] PyObject* get() const { return object_->get(); }

private:
    const std::shared_ptr<SharedObject> object_;
};

}  // namespace ndv::bindings

// SPDX-License-Identifier: Apache-2.0
// Work that needs the GIL, asked for on threads that must not take it: dropping Python references
// and handing buffers back. The next call into the extension that holds the GIL does it.
#pragma once

#include <pybind11/pybind11.h>

#include <atomic>
#include <memory>

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
    // With the GIL, as all of it.
    [[nodiscard]] static std::shared_ptr<SharedObject> make(py::object object);
    // Of the argument `name`, which must be callable.
    [[nodiscard]] static std::shared_ptr<SharedObject> function(const py::object& given,
                                                                const char* name);
    // Null when the garbage collector takes it. The collector may be clearing what it found, piece
    // by piece and with other threads running in between; but before the first piece it ends all
    // weak references to garbage, and it spares what has been given out here by then.
    [[nodiscard]] py::object get() const;
    // For the one Python object that keeps what calls this. It shows the same throughout a
    // collection, whatever native threads queue meanwhile.
    int traverse(visitproc visit, void* arg) const {
        Py_VISIT(object_);
        return 0;
    }
    void clear() noexcept { Py_CLEAR(object_); }

private:
    friend std::default_delete<SharedObject>;
    SharedObject(py::object object, py::object weak)
        : object_(object.release().ptr()), weak_(weak.release().ptr()) {}
    ~SharedObject() = default;
    void run() noexcept override;

    PyObject* object_;
    PyObject* const weak_;
};

}  // namespace ndv::bindings

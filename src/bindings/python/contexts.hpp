// SPDX-License-Identifier: Apache-2.0
// The contexts of one queue pair: any Python object per request, carried through core as 64 bits,
// and the queue pair's own.
//
// A request's context is (value, is_object):
//   int that fits 64 bits, exactly int   (the integer, false)
//   None                                 (0, true): there is nothing to keep
//   any other object                     (address of a Node, true)
#pragma once

#include <pybind11/pybind11.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "bindings/python/deferred.hpp"
#include "core/types.hpp"

namespace ndv::bindings {

namespace py = pybind11;

struct Context {
    std::uint64_t value = 0;
    bool is_object = true;
};

// Counted (see core::RequestContexts); made with one reference, which make()'s caller owns.
// Except retire(), add_reference() and release(), everything needs the GIL.
//
// A context is reached through two Python objects: the queue that requests are posted to, and the
// completion queue that gives them back. So the garbage collector sees it through a third, which
// both refer to and which does not outlive the last reference to this.
class Contexts final : public core::RequestContexts, Deferred {
public:
    // The last release() ends it.
    [[nodiscard]] static Contexts* make(py::object queue_pair_context);
    // That third object.
    [[nodiscard]] py::object seen();
    // Whether what it stands for still exists.
    [[nodiscard]] static bool is_alive(const py::object& seen);
    // Its end; a tp_dealloc.
    static void forget_seen(PyObject* self);

    // Null stands for None. Keeps a reference to objects until give_back() or retire().
    [[nodiscard]] Context take(PyObject* object);
    // As take(), for a receive that ends in a completion of some queue pair, whose contexts give it
    // back: this lives on until then.
    [[nodiscard]] Context take_shared(PyObject* object);
    // A new reference to the object; nothing is kept afterwards.
    [[nodiscard]] PyObject* give_back(std::uint64_t value, bool is_object);
    // As give_back(), for a request that was never posted.
    void forget(const Context& context);

    [[nodiscard]] PyObject* queue_pair_context() const { return queue_pair_context_.ptr(); }
    // The integer that poll_into reports: 0 for what is none.
    [[nodiscard]] std::uint64_t queue_pair_number() const { return queue_pair_number_; }

    int traverse(visitproc visit, void* arg) const;
    // Requests that nothing in the program can hear of any more: what they gave is None from now
    // on.
    void clear() noexcept;

    void retire(std::uint64_t context) noexcept override;
    // relaxed: the caller holds a reference, so the count is above 0 all the while.
    void add_reference() noexcept override { count_.fetch_add(1, std::memory_order_relaxed); }
    void release() noexcept override;

private:
    struct Node final : Deferred {
        void run() noexcept override;

        PyObject* object = nullptr;
        Contexts* owner = nullptr;
        Node* next_free = nullptr;
        bool is_shared = false;  // holds a reference to its owner
    };
    friend std::default_delete<Contexts>;

    explicit Contexts(py::object queue_pair_context);
    ~Contexts() = default;
    void run() noexcept override;
    void grow();
    void put_free(Node& node);

    py::object queue_pair_context_;
    const std::uint64_t queue_pair_number_;
    Node* free_ = nullptr;
    std::vector<std::unique_ptr<Node[]>> blocks_;  // all nodes, in use or not
    std::atomic<std::uint32_t> count_{1};
    PyObject* seen_ = nullptr;  // borrowed
};

// What the handle of a queue with contexts keeps: one reference, and the object the collector sees.
class ContextsHold {
public:
    explicit ContextsHold(py::object queue_pair_context)
        : contexts_(Contexts::make(std::move(queue_pair_context))), seen_(contexts_->seen()) {}

    [[nodiscard]] Contexts* get() const { return contexts_.get(); }
    [[nodiscard]] const py::object& seen() const { return seen_; }
    void reset() {
        contexts_ = nullptr;
        clear();
    }
    int traverse(visitproc visit, void* arg) const {
        Py_VISIT(seen_.ptr());
        return 0;
    }
    void clear() noexcept { const py::object seen = std::exchange(seen_, py::object()); }

private:
    struct Release {
        void operator()(Contexts* contexts) const { contexts->release(); }
    };
    std::unique_ptr<Contexts, Release> contexts_;
    py::object seen_;
};

// Makes the type of what the collector sees; once.
void prepare_contexts(py::module_& module);

// The value of an exact int that fits 64 bits without a sign. Never leaves an exception set.
[[nodiscard]] bool fits_unsigned(PyObject* object, std::uint64_t& out);

}  // namespace ndv::bindings

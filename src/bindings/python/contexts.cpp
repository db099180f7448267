// SPDX-License-Identifier: Apache-2.0
// Context nodes and their free list.
#include "bindings/python/contexts.hpp"

#include <utility>

namespace ndv::bindings {
namespace {

// A queue of the default depth grows twice; nodes are never given back before the queue pair.
constexpr std::size_t kBlock = 64;

// Nothing but a place in the collector's graph. Null: what it stood for is gone.
struct Seen {
    PyObject_HEAD Contexts* contexts;
};

constinit PyTypeObject* seen_type = nullptr;
constinit PyTypeObject* numpy_integer = nullptr;

int traverse_seen(PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    const auto* const contexts = reinterpret_cast<Seen*>(self)->contexts;
    return contexts == nullptr ? 0 : contexts->traverse(visit, arg);
}

int clear_seen(PyObject* self) {
    if (auto* const contexts = reinterpret_cast<Seen*>(self)->contexts) contexts->clear();
    return 0;
}

std::uint64_t number_of(const py::object& object) {
    std::uint64_t number = 0;
    return fits_unsigned(object.ptr(), number) ? number : 0;
}

// Not what else has an __index__: that is an object like any other, and comes back itself. Asks
// types alone: no code of Python's runs, which might close what the caller has looked up.
bool is_numpy_integer(PyObject* object) {
    PyTypeObject* const type = Py_TYPE(object);
    return (type->tp_flags & Py_TPFLAGS_HEAPTYPE) == 0 &&
           PyType_IsSubtype(type, numpy_integer) != 0;
}

}  // namespace

bool fits_unsigned(PyObject* object, std::uint64_t& out) {
    if (!PyLong_CheckExact(object)) {
        if (!is_numpy_integer(object)) return false;
        const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(object));
        if (!index) PyErr_Clear();
        return index && fits_unsigned(index.ptr(), out);
    }
    const unsigned long long value = PyLong_AsUnsignedLongLong(object);
    if (value == static_cast<unsigned long long>(-1) && PyErr_Occurred() != nullptr) {
        PyErr_Clear();  // negative or too long: an object like any other
        return false;
    }
    out = value;
    return true;
}

Contexts* Contexts::make(py::object queue_pair_context) {
    return std::unique_ptr<Contexts>(new Contexts(std::move(queue_pair_context))).release();
}

py::object Contexts::seen() {
    if (seen_ != nullptr) return py::reinterpret_borrow<py::object>(seen_);
    auto* const made = PyObject_GC_New(Seen, seen_type);
    if (made == nullptr) throw py::error_already_set();
    made->contexts = this;
    seen_ = reinterpret_cast<PyObject*>(made);
    PyObject_GC_Track(seen_);
    return py::reinterpret_steal<py::object>(seen_);
}

bool Contexts::is_alive(const py::object& seen) {
    return reinterpret_cast<Seen*>(seen.ptr())->contexts != nullptr;
}

void Contexts::forget_seen(PyObject* self) {
    PyObject_GC_UnTrack(self);
    if (auto* const contexts = reinterpret_cast<Seen*>(self)->contexts) contexts->seen_ = nullptr;
    PyTypeObject* const type = Py_TYPE(self);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

int Contexts::traverse(visitproc visit, void* arg) const {
    Py_VISIT(queue_pair_context_.ptr());
    for (const auto& block : blocks_) {
        for (std::size_t i = 0; i < kBlock; ++i) Py_VISIT(block[i].object);
    }
    return 0;
}

void Contexts::clear() noexcept {
    const py::object queue_pair_context = std::exchange(queue_pair_context_, py::none());
    // By index: what goes may run code that posts, which may add a block.
    for (std::size_t at = 0; at < blocks_.size(); ++at) {
        for (std::size_t i = 0; i < kBlock; ++i) Py_CLEAR(blocks_[at][i].object);
    }
}

void prepare_contexts(py::module_& module) {
    PyType_Slot slots[] = {
        {Py_tp_traverse, reinterpret_cast<void*>(traverse_seen)},
        {Py_tp_clear, reinterpret_cast<void*>(clear_seen)},
        {Py_tp_dealloc, reinterpret_cast<void*>(Contexts::forget_seen)},
        {0, nullptr},
    };
    PyType_Spec spec{"ndverbs._native._Contexts", sizeof(Seen), 0,
                     Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                     slots};
    PyObject* const type = PyType_FromModuleAndSpec(module.ptr(), &spec, nullptr);
    if (type == nullptr) throw py::error_already_set();
    seen_type = reinterpret_cast<PyTypeObject*>(type);
    py::object integer = py::module_::import("numpy").attr("integer");
    numpy_integer = reinterpret_cast<PyTypeObject*>(integer.release().ptr());
}

Contexts::Contexts(py::object queue_pair_context)
    : queue_pair_context_(std::move(queue_pair_context)),
      queue_pair_number_(number_of(queue_pair_context_)) {}

Context Contexts::take(PyObject* object) {
    if (object == nullptr || object == Py_None) return {};
    std::uint64_t number = 0;
    if (fits_unsigned(object, number)) return {number, false};
    if (free_ == nullptr) grow();
    Node& node = *free_;
    free_ = node.next_free;
    node.object = Py_NewRef(object);
    return {reinterpret_cast<std::uint64_t>(&node), true};
}

Context Contexts::take_shared(PyObject* object) {
    const Context context = take(object);
    if (context.is_object && context.value != 0) {
        reinterpret_cast<Node*>(context.value)->is_shared = true;
        add_reference();
    }
    return context;
}

PyObject* Contexts::give_back(std::uint64_t value, bool is_object) {
    if (!is_object) return PyLong_FromUnsignedLongLong(value);
    if (value == 0) return Py_NewRef(Py_None);
    Node& node = *reinterpret_cast<Node*>(value);
    PyObject* const object = std::exchange(node.object, nullptr);
    Contexts* const owner = node.owner;  // a shared receive queue's, or this
    const bool is_shared = std::exchange(node.is_shared, false);
    owner->put_free(node);
    if (is_shared) owner->release();
    return object != nullptr ? object : Py_NewRef(Py_None);
}

void Contexts::forget(const Context& context) {
    if (context.is_object && context.value != 0) Py_DECREF(give_back(context.value, true));
}

void Contexts::retire(std::uint64_t context) noexcept {
    if (context == 0) return;
    // The node lives as long as its owner, which must outlive the node's turn.
    Node& node = *reinterpret_cast<Node*>(context);
    node.owner->add_reference();
    defer(node);
}

void Contexts::release() noexcept {
    // acq_rel: the last one sees what all others did.
    if (count_.fetch_sub(1, std::memory_order_acq_rel) == 1) defer(*this);
}

void Contexts::Node::run() noexcept {
    Contexts* const contexts = owner;
    PyObject* const retired = std::exchange(object, nullptr);
    const bool was_shared = std::exchange(is_shared, false);
    contexts->put_free(*this);
    if (was_shared) contexts->release();
    Py_XDECREF(retired);
    contexts->release();
}

void Contexts::run() noexcept {
    const std::unique_ptr<Contexts> self(this);
    if (seen_ != nullptr)
        reinterpret_cast<Seen*>(std::exchange(seen_, nullptr))->contexts = nullptr;
    clear();
}

void Contexts::grow() {
    const auto& block = blocks_.emplace_back(std::make_unique<Node[]>(kBlock));
    for (std::size_t i = 0; i < kBlock; ++i) {
        block[i].owner = this;
        put_free(block[i]);
    }
}

void Contexts::put_free(Node& node) {
    node.next_free = free_;
    free_ = &node;
}

}  // namespace ndv::bindings

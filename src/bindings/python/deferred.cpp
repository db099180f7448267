// SPDX-License-Identifier: Apache-2.0
// The stack of deferred work.
#include "bindings/python/deferred.hpp"

#include "bindings/python/gil.hpp"

namespace ndv::bindings {

constinit std::atomic<Deferred*> deferred_head{nullptr};

void defer(Deferred& work) noexcept {
    Deferred* head = deferred_head.load(std::memory_order_relaxed);
    do {
        work.next_ = head;
        // release: pairs with the acquire in run_deferred_now(), which reads what was deferred.
    } while (!deferred_head.compare_exchange_weak(head, &work, std::memory_order_release,
                                                  std::memory_order_relaxed));
}

void run_deferred_now() noexcept {
    // What is left when the interpreter has ended is not worth a crash.
    if (Py_IsInitialized() == 0) return;
    // Finalizers that run from here must neither see nor clear the caller's exception.
    const py::error_scope scope;
    // acquire: pairs with the release in defer().
    Deferred* work = deferred_head.exchange(nullptr, std::memory_order_acquire);
    while (work != nullptr) {
        Deferred* const next = work->next_;
        work->run();
        work = next;
    }
}

std::shared_ptr<SharedObject> SharedObject::make(py::object object) {
    if (PyType_SUPPORTS_WEAKREFS(Py_TYPE(object.ptr())) == 0) {
        object = py::module_::import("functools").attr("partial")(object);
    }
    auto weak = py::reinterpret_steal<py::object>(PyWeakref_NewRef(object.ptr(), nullptr));
    if (!weak) throw py::error_already_set();
    std::unique_ptr<SharedObject> made(new SharedObject(std::move(object), std::move(weak)));
    return {made.release(), [](SharedObject* self) { defer(*self); }};
}

std::shared_ptr<SharedObject> SharedObject::function(const py::object& given, const char* name) {
    if (PyCallable_Check(given.ptr()) == 0) {
        throw py::type_error(std::string(name) + " must be callable, not " +
                             Py_TYPE(given.ptr())->tp_name);
    }
    return make(given);
}

py::object SharedObject::get() const {
    if (object_ == nullptr) return {};
    auto alive = py::reinterpret_borrow<py::object>(weak_)();
    return alive.is_none() ? py::object() : alive;
}

void SharedObject::run() noexcept {
    const std::unique_ptr<SharedObject> self(this);
    Py_DECREF(weak_);
    Py_XDECREF(object_);
}

}  // namespace ndv::bindings

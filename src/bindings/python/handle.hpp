// SPDX-License-Identifier: Apache-2.0
// What the Python objects of this extension share: a handle owns one native object, closes it when
// it is closed or collected, and says clearly why it cannot be used any more.
#pragma once

#include <pybind11/pybind11.h>

#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings/python/adapter_state.hpp"
#include "bindings/python/deferred.hpp"
#include "bindings/python/errors.hpp"
#include "bindings/python/gil.hpp"

namespace ndv::bindings {

namespace py = pybind11;

// Never destroyed: what belongs to a parent process, whose threads and descriptors are not here.
// With the GIL.
template <typename T>
void leak(std::shared_ptr<T> native) {
    // Reachable for good, so that a leak checker does not take it for an accident.
    static auto* const kept = new std::deque<std::shared_ptr<T>>;
    kept->push_back(std::move(native));
}

// Raises: ClosedError, or that the object belongs to another process. Cold.
[[noreturn]] void raise_unusable(const char* noun, const AdapterState& adapter, bool is_foreign);

// Whether close() of a native object may wait, for microseconds, for the stepper of a connection.
enum class CloseWaits : bool { no, yes };

// Raises NOT_SUPPORTED where there is none. Cold.
[[nodiscard]] std::uintptr_t raw_handle_of(const core::Object& native);

// A reference, with the GIL, that may be the last one: given up without the GIL where that takes
// time.
template <typename Native>
class LetGo {
public:
    explicit LetGo(std::shared_ptr<Native> native) : native_(std::move(native)) {}
    LetGo(const LetGo&) = delete;
    LetGo& operator=(const LetGo&) = delete;
    ~LetGo() {
        if (native_ == nullptr || !native_->waits_for_device()) return;
        const Released released;
        native_ = nullptr;
    }

private:
    std::shared_ptr<Native> native_;
};

template <typename Native, CloseWaits kCloseWaits = CloseWaits::no>
class Handle : Dependent {
public:
    // `noun` names the object in messages: "queue pair".
    Handle(const char* noun, std::shared_ptr<Native> native, std::shared_ptr<AdapterState> adapter)
        : noun_(noun), native_(std::move(native)), adapter_(std::move(adapter)) {
        adapter_->add_dependent(*this);
    }
    ~Handle() {
        detach();
        close();
    }

    [[nodiscard]] bool is_usable() const {
        return native_ != nullptr && !native_->is_closed() && !native_->is_foreign();
    }
    // Valid while the GIL is held; share() for longer.
    [[nodiscard]] Native& get() const {
        run_deferred();
        if (!is_usable()) [[unlikely]] {
            raise_unusable(noun_, *adapter_, native_ != nullptr && native_->is_foreign());
        }
        return *native_;
    }
    [[nodiscard]] std::shared_ptr<Native> share() const {
        static_cast<void>(get());
        return native_;
    }
    // Null after close(); usable or not.
    [[nodiscard]] const std::shared_ptr<Native>& peek() const { return native_; }
    [[nodiscard]] const std::shared_ptr<AdapterState>& adapter() const { return adapter_; }
    [[nodiscard]] const char* noun() const { return noun_; }
    // What `call` returns for the native object, called without the GIL.
    template <typename Call>
    auto call_without_gil(Call call) const {
        return without_gil([&call, native = share()] { return call(*native); });
    }

    // Idempotent. In a forked child the native object is left alone for good: its threads are
    // gone and its descriptors closed.
    void close() {
        if (native_ == nullptr) return;
        std::shared_ptr<Native> native = take();
        if (native->is_foreign()) {
            leak(std::move(native));
        } else if (kCloseWaits == CloseWaits::yes || native->waits_for_device()) {
            const Released released;
            native->close();
            native = nullptr;
        } else {
            native->close();
            native = nullptr;  // so that what its end defers runs now
        }
        run_deferred();
    }
    [[nodiscard]] bool is_closed() const { return native_ == nullptr || native_->is_closed(); }

    // See collected.hpp: what native closures of this object call.
    int traverse(visitproc visit, void* arg) const {
        for (const auto& weak : calls_) {
            const auto function = weak.lock();
            if (const int stop = function ? function->traverse(visit, arg) : 0) return stop;
        }
        return 0;
    }
    void clear() noexcept {
        for (const auto& weak : std::exchange(calls_, {})) {
            if (const auto function = weak.lock()) function->clear();
        }
    }
    // From now on it calls these and no others.
    void set_calls(std::vector<std::weak_ptr<SharedObject>> functions) {
        calls_ = std::move(functions);
    }

protected:
    // First of all in a destructor: no drop() from now on.
    void detach() { adapter_->remove_dependent(*this); }
    // The adapter has closed it. Nothing of this is touched after the locals: what they drop may
    // run Python code, and other threads may then destroy this.
    void drop() override { const LetGo<Native> native(take()); }
    [[nodiscard]] std::shared_ptr<Native> take() { return std::exchange(native_, nullptr); }

private:
    const char* const noun_;
    std::shared_ptr<Native> native_;
    const std::shared_ptr<AdapterState> adapter_;  // keeps the adapter open
    std::vector<std::weak_ptr<SharedObject>> calls_;
};

// The handle inside `self`, whose type the caller has checked; null when __init__ never ran. Our
// classes have one base and a unique_ptr holder, which is pybind11's simple instance layout.
template <typename Value>
[[nodiscard]] Value* value_pointer(PyObject* self) {
    return static_cast<Value*>(
        reinterpret_cast<py::detail::instance*>(self)->simple_value_holder[0]);
}

// A method or property of a handle that is one of its native object's, whose error is raised.
template <typename Value, typename... Given, typename Call>
[[nodiscard]] auto passed_on(Call call) {
    return [call](const Value& self, Given... given) {
        const auto pass = [&] { return (self.get().*call)(std::forward<Given>(given)...); };
        if constexpr (requires { check_or_raise(pass()); }) {
            check_or_raise(pass());
        } else if constexpr (requires { value_or_raise(pass()); }) {
            return value_or_raise(pass());
        } else {
            return pass();
        }
    };
}
template <typename Value, typename Result, typename Native, typename... Given>
[[nodiscard]] auto native_call(Result (Native::*call)(Given...)) {
    return passed_on<Value, Given...>(call);
}
template <typename Value, typename Result, typename Native, typename... Given>
[[nodiscard]] auto native_call(Result (Native::*call)(Given...) const) {
    return passed_on<Value, Given...>(call);
}

// The repr; `describe` says what there is to say of one that can be used.
template <typename Class, typename Describe>
void bind_repr(Class& cls, Describe describe) {
    using Value = typename Class::type;
    const auto name = cls.attr("__name__").template cast<std::string>();
    cls.def("__repr__", [name, describe](const Value& self) {
        const std::string text = self.is_usable()               ? describe(self)
                                 : self.adapter()->is_foreign() ? "of another process"
                                                                : "closed";
        return "<" + name + " " + text + ">";
    });
}

// close(), closed and the context manager.
template <typename Class>
void bind_handle(Class& cls) {
    using Value = typename Class::type;
    cls.def("close", &Value::close)
        .def_property_readonly("closed", &Value::is_closed)
        .def_property_readonly("raw_handle",
                               [](const Value& self) { return raw_handle_of(self.get()); })
        .def("__enter__",
             [](py::object self) {
                 static_cast<void>(self.cast<Value&>().get());
                 return self;
             })
        .def(
            "__exit__",
            [](Value& self, const py::object&, const py::object&, const py::object&) {
                self.close();
            },
            py::arg("kind"), py::arg("error"), py::arg("trace"), py::pos_only());
}

}  // namespace ndv::bindings

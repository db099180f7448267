// SPDX-License-Identifier: Apache-2.0
// Opening and closing of adapters, also by the garbage collector and at the interpreter's end.
#include "bindings/python/adapter_state.hpp"

#include <unistd.h>

#include <string>
#include <string_view>
#include <utility>

#include "bindings/python/errors.hpp"
#include "bindings/python/gil.hpp"
#include "bindings/python/handle.hpp"
#include "stream/stream.hpp"

namespace ndv::bindings {
namespace {

struct Opened {
    std::weak_ptr<AdapterState> state;
    std::shared_ptr<ClosedGate> gate;
    pid_t owner;
};

// Guarded by the GIL. Never destroyed: the exit handler is not the last to run.
std::vector<Opened>& opened() {
    static auto* list = new std::vector<Opened>;
    return *list;
}

// One part of an end that others wait for: where memory runs out, the rest comes all the same.
template <typename Part>
void attempt(std::exception_ptr& failure, const Part& part) {
    try {
        part();
    } catch (const std::exception&) {
        if (!failure) failure = std::current_exception();
    }
}

}  // namespace

std::uintptr_t raw_handle_of(const core::Object& native) {
    const std::uintptr_t handle = native.raw_handle();
    if (handle != 0) return handle;
    raise(Status::not_supported, "raw_handle: there is none",
          "\"raw_handles\" in adapter.info.extensions says whether the provider has any");
}

void raise_unusable(const char* noun, const AdapterState& adapter, bool is_foreign) {
    if (is_foreign || adapter.is_foreign()) {
        raise(Status::invalid_device_state,
              std::string("this ") + noun + " belongs to process " +
                  std::to_string(adapter.owner()) + ", and this is process " +
                  std::to_string(::getpid()),
              "open an adapter after the fork");
    }
    raise(
        Status::file_forced_closed, std::string("the ") + noun + " is closed",
        adapter.is_closed() && noun != std::string_view("adapter") ? "its adapter was closed" : "");
}

std::shared_ptr<AdapterState> AdapterState::make(std::shared_ptr<core::Adapter> native) {
    auto state = std::make_shared<AdapterState>(std::move(native));
    std::erase_if(opened(), [](const Opened& entry) {
        return entry.owner != ::getpid() || entry.gate->is_open();
    });
    opened().push_back({state, state->gate_, ::getpid()});
    return state;
}

AdapterState::AdapterState(std::shared_ptr<core::Adapter> native)
    : native_(std::move(native)),
      loop_(std::make_shared<CallbackLoop>()),
      gate_(std::make_shared<ClosedGate>()),
      owner_(::getpid()) {}

AdapterState::~AdapterState() {
    warn_if_open();
    try {
        if (phase_ == Phase::open && !is_foreign() && loop_->is_this_thread()) {
            // The last reference went in a callback, which the barrier would wait for.
            loop_->close_after_task([gate = gate_] { gate->open(); });
            std::exception_ptr failure;
            tell_of_end(failure);
            if (failure) std::rethrow_exception(failure);
        } else {
            close();
        }
    } catch (const std::exception&) {
        const py::error_scope scope;
        report_exception("the end of an adapter");
    }
}

void AdapterState::warn_if_open() noexcept {
    if (phase_ != Phase::open || may_be_dropped_ || is_foreign()) return;
    const py::error_scope scope;
    if (PyErr_ResourceWarning(nullptr, 1, "unclosed <Adapter %s>: close it, or use it in a with",
                              native_->info().name.c_str()) != 0) {
        PyErr_WriteUnraisable(nullptr);  // warnings are errors
    }
}

bool AdapterState::is_foreign() const { return owner_ != ::getpid(); }

const std::shared_ptr<core::Adapter>& AdapterState::get() const {
    run_deferred();
    if (phase_ != Phase::open || native_->is_foreign()) {
        raise_unusable("adapter", *this, is_foreign());
    }
    return native_;
}

void AdapterState::close() {
    if (phase_ == Phase::closed) return;
    if (is_foreign()) {
        phase_ = Phase::closed;
        leak(std::move(native_));
        leak(std::move(streams_));  // a thread of the parent sleeps on its condition variable
        return;
    }
    if (loop_->is_this_thread()) {
        raise(Status::invalid_device_state,
              "Adapter.close() was called inside a callback of this adapter, which it would wait "
              "for",
              "close it on another thread, or close other objects here");
    }
    if (phase_ == Phase::closing) {
        const Released released;
        gate_->wait();
        return;
    }
    // The interpreter's end waits for the gate.
    const FinishesFirst first;
    phase_ = Phase::closing;
    std::exception_ptr failure;
    tell_of_end(failure);
    {
        // Ends every descendant, then the callbacks that this still caused.
        const Released released;
        const std::shared_ptr<core::Adapter> native = std::move(native_);
        attempt(failure, [&native] { native->close(); });
        native->callbacks().stop(false);
        loop_->wait_until_ended();
    }
    phase_ = Phase::closed;
    // Dropping one may run Python code that drops others.
    while (!dependents_.empty()) {
        Dependent* const dependent = *dependents_.begin();
        dependents_.erase(dependents_.begin());
        dependent->drop();
    }
    run_deferred();  // contexts and buffers of what went
    gate_->open();
    if (failure) std::rethrow_exception(failure);
}

void AdapterState::tell_of_end(std::exception_ptr& failure) {
    for (const OnClose& entry : std::exchange(on_close_, {})) {
        if (const auto owner = entry.owner.lock()) attempt(failure, entry.function);
    }
}

std::weak_ptr<core::Adapter> AdapterState::with_callbacks() {
    loop_->start(get());
    return native_;
}

const std::shared_ptr<stream::Worker>& AdapterState::streams() {
    static_cast<void>(get());
    if (streams_ == nullptr) {
        streams_ = std::make_shared<stream::Worker>();
        on_close(streams_, [worker = streams_.get()] {
            const Released released;
            worker->end(stream::Stream::kLingerTime);
        });
    }
    return streams_;
}

void AdapterState::on_close(std::weak_ptr<void> owner, std::function<void()> function) {
    std::erase_if(on_close_, [](const OnClose& entry) { return entry.owner.expired(); });
    on_close_.push_back({std::move(owner), std::move(function)});
}

void close_all_adapters() {
    // Daemon threads may have one in the making, until they give up the GIL.
    while (!opened().empty()) {
        for (const Opened& entry : std::exchange(opened(), {})) {
            if (entry.owner != ::getpid()) continue;
            if (const auto state = entry.state.lock()) {
                state->warn_if_open();
                try {
                    state->close();
                } catch (const std::exception&) {
                    report_exception("the end of an adapter");
                }
            } else {
                const Released released;
                entry.gate->wait();
            }
        }
    }
}

}  // namespace ndv::bindings

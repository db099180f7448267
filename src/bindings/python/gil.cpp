// SPDX-License-Identifier: Apache-2.0
// The GIL, deadlines and the end of the interpreter.
#include "bindings/python/gil.hpp"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <string>
#include <utility>

#include "base/thread_local.hpp"
#include "bindings/python/deferred.hpp"
#include "bindings/python/errors.hpp"

namespace ndv::bindings {
namespace {

// Ctrl-C must end a wait within 100 ms; half of it leaves the rest to the machine.
constexpr std::chrono::milliseconds kSlice{50};
constexpr double kNever_s = 10 * 365.0 * 24 * 3600;

// Both seq_cst: a thread that comes back counts itself and then looks whether the exit has begun;
// begin_exit() says that it has and then looks at the count. One of the two sees the other.
constinit std::atomic<bool> exiting{false};
constinit std::atomic<unsigned> returning{0};  // threads that wait for the GIL in ~Released
NDV_THREAD_LOCAL bool survives_exit = false;

[[noreturn]] void stay() {
    while (true) ::pause();
}

void note_returned() {
    returning.fetch_sub(1, std::memory_order_seq_cst);
    if (exiting.load(std::memory_order_seq_cst)) returning.notify_all();
}

}  // namespace

Released::~Released() noexcept(false) {
    if (survives_exit) {
        PyEval_RestoreThread(state_);
    } else {
        returning.fetch_add(1, std::memory_order_seq_cst);
        if (exiting.load(std::memory_order_seq_cst)) {
            note_returned();
            stay();
        }
        PyEval_RestoreThread(state_);
        note_returned();
    }
    run_deferred();
}

void prepare_exit() {
    // Threads that wait for the GIL are not in a forked child.
    ::pthread_atfork(nullptr, nullptr, [] { returning.store(0, std::memory_order_relaxed); });
}

void begin_exit() {
    exiting.store(true, std::memory_order_seq_cst);
    PyThreadState* const state = PyEval_SaveThread();
    while (const unsigned count = returning.load(std::memory_order_seq_cst)) {
        returning.wait(count, std::memory_order_seq_cst);
    }
    PyEval_RestoreThread(state);
}

void survive_exit() { survives_exit = true; }

FinishesFirst::FinishesFirst() : survived_(std::exchange(survives_exit, true)) {}

FinishesFirst::~FinishesFirst() {
    survives_exit = survived_;
    if (survived_ || !exiting.load(std::memory_order_seq_cst)) return;
    PyEval_SaveThread();
    stay();
}

std::string seconds_text(double seconds) {
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), "%g s", seconds);
    return text.data();
}

std::chrono::nanoseconds timeout_duration(std::optional<double> timeout_s) {
    const double seconds = timeout_s.value_or(kNever_s);
    if (!(seconds >= 0)) {
        raise(Status::invalid_parameter, "a timeout of " + seconds_text(seconds) + " is impossible",
              "give seconds from 0 on, or None to wait without a limit");
    }
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
        std::chrono::duration<double>(std::min(seconds, kNever_s)));
}

Deadline::Deadline(std::optional<double> timeout_s) {
    const std::chrono::nanoseconds duration = timeout_duration(timeout_s);
    if (timeout_s) at_ = Clock::now() + duration;
}

std::chrono::nanoseconds Deadline::slice() const {
    if (!at_) return kSlice;
    const std::chrono::nanoseconds left = *at_ - Clock::now();
    return std::clamp(left, std::chrono::nanoseconds::zero(), std::chrono::nanoseconds(kSlice));
}

bool Deadline::is_over() const { return at_ && Clock::now() >= *at_; }

}  // namespace ndv::bindings

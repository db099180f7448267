// SPDX-License-Identifier: Apache-2.0
// The GIL, deadlines and the end of the interpreter.
#include "bindings/gil.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <string>

#include "bindings/deferred.hpp"
#include "bindings/errors.hpp"

namespace ndv::bindings {
namespace {

// Ctrl-C must end a wait within 100 ms; half of it leaves the rest to the machine.
constexpr std::chrono::milliseconds kSlice{50};
constexpr double kNever_s = 10 * 365.0 * 24 * 3600;

constinit std::atomic<bool> exiting{false};
constinit thread_local bool survives_exit = false;

}  // namespace

Released::~Released() noexcept(false) {
    // acquire: pairs with the release in begin_exit().
    if (exiting.load(std::memory_order_acquire) && !survives_exit) {
        while (true) ::pause();
    }
    PyEval_RestoreThread(state_);
    run_deferred();
}

void begin_exit() { exiting.store(true, std::memory_order_release); }
bool is_exiting() { return exiting.load(std::memory_order_acquire); }
void survive_exit() { survives_exit = true; }

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

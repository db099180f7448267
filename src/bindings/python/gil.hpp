// SPDX-License-Identifier: Apache-2.0
// The GIL: giving it up for a scope, waiting in slices so that Ctrl-C is heard, and what threads
// do that come back from native code while the interpreter ends.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "bindings/python/integers.hpp"

namespace ndv::bindings {

namespace py = pybind11;

// Gives the GIL up for a scope; afterwards runs what other threads deferred to its holder.
class Released {
public:
    Released() : state_(PyEval_SaveThread()) {}
    Released(const Released&) = delete;
    Released& operator=(const Released&) = delete;
    // When the interpreter ends, a daemon thread stays in here for good.
    ~Released() noexcept(false);

private:
    PyThreadState* const state_;
};

// What `function` returns, called without the GIL.
template <typename Function>
[[nodiscard]] auto without_gil(Function function) {
    const Released released;
    return function();
}

// Once, when the module is made.
void prepare_exit();
// With the GIL. The interpreter ends: from now on daemon threads that come back from native code
// stay where they are, as Python 3.14 has it, instead of being unwound through C++ frames. Those
// that wait for the GIL already get it first.
void begin_exit();
// This thread goes on although the interpreter ends: the one that runs the exit handlers, and
// callback threads, which are waited for.
void survive_exit();

// With the GIL, around what the exit handlers wait for: the thread goes on until the end of the
// scope, and stays there when the interpreter has begun to end meanwhile.
class FinishesFirst {
public:
    FinishesFirst();
    FinishesFirst(const FinishesFirst&) = delete;
    FinishesFirst& operator=(const FinishesFirst&) = delete;
    ~FinishesFirst();

private:
    const bool survived_;
};

// When a blocking call gives up. No value means never.
class Deadline {
public:
    explicit Deadline(std::optional<double> timeout_s);

    // How long to sleep before signals are looked at again.
    [[nodiscard]] std::chrono::nanoseconds slice() const;
    [[nodiscard]] bool is_over() const;

private:
    using Clock = std::chrono::steady_clock;
    std::optional<Clock::time_point> at_;
};

// Seconds as given to a `timeout` parameter; raises for negative values and NaN. Never is ten
// years, so that sums with the clock cannot overflow.
[[nodiscard]] std::chrono::nanoseconds timeout_duration(std::optional<double> timeout_s);

// "0.25 s"
[[nodiscard]] std::string seconds_text(double seconds);

// Calls `attempt(slice)` without the GIL until it returns true or the deadline is over, and lets
// Python handle signals in between: their exceptions leave as py::error_already_set.
template <typename Attempt>
[[nodiscard]] bool wait_in_slices(const Deadline& deadline, Attempt attempt) {
    while (true) {
        if (without_gil([&] { return attempt(deadline.slice()); })) return true;
        if (PyErr_CheckSignals() != 0) throw py::error_already_set();
        if (deadline.is_over()) return false;
    }
}

// Calls `loop` without the GIL. It is given what to ask a few times a second: true ends it, and the
// exception of the signal handler that said so leaves as py::error_already_set.
template <typename Loop>
[[nodiscard]] auto run_interruptibly(Loop loop) {
    bool has_raised = false;
    const std::function<bool()> is_interrupted = [&has_raised] {
        const py::gil_scoped_acquire acquired;
        has_raised = PyErr_CheckSignals() != 0;
        return has_raised;
    };
    auto outcome = without_gil([&] { return loop(is_interrupted); });
    if (has_raised) throw py::error_already_set();
    return outcome;
}

}  // namespace ndv::bindings

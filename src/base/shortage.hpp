// SPDX-License-Identifier: Apache-2.0
// Memory runs out where no caller can be told: on a thread of ours, or in the middle of a change.
#pragma once

#include <poll.h>

#include <chrono>
#include <exception>
#include <new>

#include "base/expected.hpp"

namespace ndv::base {

constexpr std::chrono::milliseconds kMemoryPause{10};

// Of the thread that calls it, before memory is short: the first exception of a thread needs some
// for what it keeps, and where there is none the C library ends the process.
inline void prepare_thread() {
    // volatile: the compiler knows that the call changes nothing else.
    [[maybe_unused]] const volatile int known = std::uncaught_exceptions();
}

inline void pause_for_memory() { ::poll(nullptr, 0, int{kMemoryPause.count()}); }

// Runs `part` until it finds memory, for a second at most: then std::bad_alloc goes on. `part` can
// run again from where it failed.
template <typename Part>
void with_memory(Part&& part) {
    constexpr int kTries = 100;
    for (int tries = 1;; ++tries) {
        try {
            part();
            return;
        } catch (const std::bad_alloc&) {
            if (tries == kTries) throw;
        }
        pause_for_memory();
    }
}

// For an outcome that is reported once: without memory its text is as short as this one, which
// takes none.
[[nodiscard]] inline Unexpected fail_anyhow(Status status, const char* what, int os_error = 0) {
    try {
        return fail(status, what, {}, os_error);
    } catch (const std::bad_alloc&) {
        return fail(status, "out of memory", {}, os_error);
    }
}

}  // namespace ndv::base

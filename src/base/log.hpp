// SPDX-License-Identifier: Apache-2.0
// Sentences for the program's log, from any thread, with or without the GIL. The bindings hand them
// to Python's loggers; a program without them, such as a native test, drops them.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>

namespace ndv::base {

enum class LogLevel : std::uint8_t { debug = 10, info = 20, warning = 30 };  // Python's numbers

// `room` ends the logger's name: "verbs" is "ndverbs.verbs". Must neither block nor call back.
using LogSink = void (*)(LogLevel level, const char* room, std::string sentence);

// Set with release: pairs with the acquire in log().
inline constinit std::atomic<LogSink> log_sink{nullptr};

// Below it nothing is said; relaxed: a change may show a moment later.
inline constinit std::atomic<LogLevel> least_logged{LogLevel::warning};

[[nodiscard]] inline bool is_logged(LogLevel level) {
    return level >= least_logged.load(std::memory_order_relaxed);
}

inline void log(LogLevel level, const char* room, std::string sentence) {
    // acquire: pairs with the release of the thread that set it.
    if (const LogSink sink = log_sink.load(std::memory_order_acquire)) {
        sink(level, room, std::move(sentence));
    }
}

}  // namespace ndv::base

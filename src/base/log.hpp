// SPDX-License-Identifier: Apache-2.0
// Sentences for the program's log, from any thread, with or without the GIL. The bindings hand them
// to Python's loggers; a program without them, such as a native test, drops them.
#pragma once

#include <atomic>
#include <string>
#include <utility>

namespace ndv::base {

enum class LogLevel : int { debug = 10, info = 20, warning = 30 };  // the numbers of Python's

// `room` ends the logger's name: "verbs" is "ndverbs.verbs". Must neither block nor call back.
using LogSink = void (*)(LogLevel level, const char* room, std::string text);
inline constinit std::atomic<LogSink> log_sink{nullptr};

inline void log(LogLevel level, const char* room, std::string text) {
    // acquire: pairs with the store of whoever sets the sink.
    if (const LogSink sink = log_sink.load(std::memory_order_acquire)) {
        sink(level, room, std::move(text));
    }
}

}  // namespace ndv::base

// SPDX-License-Identifier: Apache-2.0
// base/log.hpp into Python's logging: one logger per room, ndverbs.connection and so on; warnings
// are RuntimeWarnings, too. Sentences wait for the next call that holds the GIL.
#include "base/log.hpp"

#include <string>
#include <utility>
#include <vector>

#include "base/mutex.hpp"
#include "bindings/module.hpp"
#include "bindings/python/deferred.hpp"

namespace ndv::bindings {
namespace {

struct Line {
    base::LogLevel level;
    const char* room;
    std::string sentence;
};

// The lines that wait; deferred while there are any, so that their order is kept.
class Lines final : Deferred {
public:
    void add(Line line) {
        const base::Lock lock(mutex_);
        lines_.push_back(std::move(line));
        if (lines_.size() == 1) defer(*this);
    }

private:
    void run() noexcept override {
        std::vector<Line> lines;
        {
            const base::Lock lock(mutex_);
            lines.swap(lines_);
        }
        for (const Line& line : lines) {
            try {
                say(line);
            } catch (py::error_already_set& error) {  // the others are said all the same
                error.discard_as_unraisable("a line of the log");
            }
        }
    }

    static void say(const Line& line) {
        py::module_::import("logging")
            .attr("getLogger")(std::string("ndverbs.") + line.room)
            .attr("log")(static_cast<int>(line.level), "%s", line.sentence);
        // The log is silent unless the program sets it up; this is seen all the same.
        if (line.level == base::LogLevel::warning &&
            PyErr_WarnEx(PyExc_RuntimeWarning, line.sentence.c_str(), 1) != 0) {
            throw py::error_already_set();
        }
    }

    base::Mutex mutex_;
    std::vector<Line> lines_ NDV_GUARDED_BY(mutex_);
};

void write(base::LogLevel level, const char* room, std::string sentence) {
    static auto* const lines = new Lines;  // never destroyed: threads may still speak
    lines->add({level, room, std::move(sentence)});
}

}  // namespace

void begin_logging() {
    // release: pairs with the acquire in log().
    base::log_sink.store(write, std::memory_order_release);
}

void update_log_level() {
    const py::object logger =
        py::module_::import("logging").attr("getLogger")("ndverbs.connection");
    const bool is_wanted =
        logger.attr("isEnabledFor")(static_cast<int>(base::LogLevel::debug)).cast<bool>();
    base::least_logged.store(is_wanted ? base::LogLevel::debug : base::LogLevel::warning,
                             std::memory_order_relaxed);
}

}  // namespace ndv::bindings

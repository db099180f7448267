// SPDX-License-Identifier: Apache-2.0
// What native code says to the program's log goes to Python's loggers, where the GIL is held next.
#include "base/log.hpp"

#include <memory>
#include <string>
#include <utility>

#include "bindings/deferred.hpp"
#include "bindings/module.hpp"

namespace ndv::bindings {
namespace {

class LogLine final : Deferred {
public:
    static void defer_one(base::LogLevel level, const char* room, std::string text) {
        defer(*new LogLine(level, room, std::move(text)));
    }

private:
    friend std::default_delete<LogLine>;
    LogLine(base::LogLevel level, const char* room, std::string text)
        : level_(static_cast<int>(level)), room_(room), text_(std::move(text)) {}
    ~LogLine() = default;

    void run() noexcept override {
        const std::unique_ptr<LogLine> self(this);
        try {
            py::module_::import("logging")
                .attr("getLogger")("ndverbs." + room_)
                .attr("log")(level_, "%s", text_);
        } catch (py::error_already_set& error) {
            error.discard_as_unraisable("the log of ndverbs");
        }
    }

    const int level_;
    const std::string room_;
    const std::string text_;
};

}  // namespace

void attach_log() {
    // release: pairs with the acquire in log().
    base::log_sink.store(&LogLine::defer_one, std::memory_order_release);
}

}  // namespace ndv::bindings

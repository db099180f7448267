// SPDX-License-Identifier: Apache-2.0
// CompletionQueue as Python sees it. poll and poll_into are in hot.cpp.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <utility>

#include "bindings/handle.hpp"
#include "core/completion_queue.hpp"

namespace ndv::bindings {

class CompletionQueue final : public Handle<core::CompletionQueue> {
public:
    // `on_notify`: None, or called with a Status on the callback thread.
    CompletionQueue(std::shared_ptr<core::CompletionQueue> native,
                    std::shared_ptr<AdapterState> adapter, const py::object& on_notify);
    ~CompletionQueue() {
        detach();
        close();
    }

    void close();
    [[nodiscard]] int fileno();
    void resize(std::uint32_t depth);

    // Another Python thread polls without the GIL: core's ring has one consumer. Guarded by the
    // GIL.
    bool is_polled = false;

private:
    bool has_descriptor_ = false;
};

// The queue overran or broke: it and its queue pairs are dead.
[[nodiscard]] Error queue_error(const core::CompletionQueue& queue);

}  // namespace ndv::bindings

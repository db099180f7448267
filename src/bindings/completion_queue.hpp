// SPDX-License-Identifier: Apache-2.0
// CompletionQueue as Python sees it. poll and poll_into are in hot/queue_pair.cpp.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <utility>
#include <vector>

#include "base/pruning.hpp"
#include "bindings/python/handle.hpp"
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

    // Completions of this queue give back contexts of these; see Contexts.
    void will_give(const py::object& contexts);
    int traverse(visitproc visit, void* arg) const;
    void clear() noexcept;

    // Another Python thread polls without the GIL: core's ring has one consumer. Guarded by the
    // GIL.
    bool is_polled = false;

private:
    void drop() override {
        const auto given = std::exchange(gives_, {});
        Handle::drop();
    }

    bool has_descriptor_ = false;
    std::vector<py::object> gives_;
    base::Pruning pruning_;
};

// Warns, once per queue, when the queues that complete there may have more outstanding than it
// holds. Raises when warnings are errors.
void warn_of_overrun(core::CompletionQueue& queue);

// The queue overran or broke: it and its queue pairs are dead.
[[nodiscard]] Error queue_error(const core::CompletionQueue& queue);

}  // namespace ndv::bindings

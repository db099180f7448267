// SPDX-License-Identifier: Apache-2.0
// QueuePair as Python sees it. Its posting calls are in hot/queue_pair.cpp.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <utility>

#include "bindings/python/contexts.hpp"
#include "bindings/python/handle.hpp"
#include "core/queue_pair.hpp"

namespace ndv::bindings {

class QueuePair final : public Handle<core::QueuePair> {
public:
    QueuePair(std::shared_ptr<core::QueuePair> native, std::shared_ptr<AdapterState> adapter,
              ContextsHold contexts)
        : Handle("queue pair", std::move(native), std::move(adapter)),
          contexts_(std::move(contexts)) {}
    ~QueuePair() {
        detach();
        close();
    }

    void close() {
        Handle::close();
        contexts_.reset();
        run_deferred();
    }

    // Valid while the handle is usable.
    [[nodiscard]] Contexts& contexts() const { return *contexts_.get(); }

    int traverse(visitproc visit, void* arg) const { return contexts_.traverse(visit, arg); }
    void clear() noexcept { contexts_.clear(); }

private:
    void drop() override {
        ContextsHold contexts = std::move(contexts_);
        const LetGo native(take());
        contexts.reset();
    }

    ContextsHold contexts_;
};

}  // namespace ndv::bindings

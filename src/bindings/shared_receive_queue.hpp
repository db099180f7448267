// SPDX-License-Identifier: Apache-2.0
// SharedReceiveQueue as Python sees it.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <utility>

#include "bindings/python/contexts.hpp"
#include "bindings/python/handle.hpp"
#include "core/shared_receive_queue.hpp"

namespace ndv::bindings {

class SharedReceiveQueue final : public Handle<core::SharedReceiveQueue> {
public:
    SharedReceiveQueue(std::shared_ptr<core::SharedReceiveQueue> native,
                       std::shared_ptr<AdapterState> adapter, ContextsHold contexts)
        : Handle("shared receive queue", std::move(native), std::move(adapter)),
          contexts_(std::move(contexts)) {}
    ~SharedReceiveQueue() {
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
    [[nodiscard]] const py::object& seen() const { return contexts_.seen(); }

    int traverse(visitproc visit, void* arg) const {
        const int stop = Handle::traverse(visit, arg);
        return stop != 0 ? stop : contexts_.traverse(visit, arg);
    }
    void clear() noexcept {
        Handle::clear();
        contexts_.clear();
    }

private:
    void drop() override {
        ContextsHold contexts = std::move(contexts_);
        const LetGo native(take());
        contexts.reset();
    }
    ContextsHold contexts_;
};

}  // namespace ndv::bindings

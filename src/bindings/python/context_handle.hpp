// SPDX-License-Identifier: Apache-2.0
// The handle of a queue whose requests have contexts: queue pair or shared receive queue.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <utility>

#include "bindings/python/contexts.hpp"
#include "bindings/python/handle.hpp"

namespace ndv::bindings {

template <typename Native>
class HandleWithContexts : public Handle<Native> {
public:
    HandleWithContexts(const char* noun, std::shared_ptr<Native> native,
                       std::shared_ptr<AdapterState> adapter, ContextsHold contexts)
        : Handle<Native>(noun, std::move(native), std::move(adapter)),
          contexts_(std::move(contexts)) {}
    ~HandleWithContexts() {
        this->detach();
        close();
    }

    void close() {
        Handle<Native>::close();
        contexts_.reset();
        run_deferred();
    }

    // Valid while the handle is usable.
    [[nodiscard]] Contexts& contexts() const { return *contexts_.get(); }
    [[nodiscard]] const py::object& seen() const { return contexts_.seen(); }

    int traverse(visitproc visit, void* arg) const {
        const int stop = Handle<Native>::traverse(visit, arg);
        return stop != 0 ? stop : contexts_.traverse(visit, arg);
    }
    void clear() noexcept {
        Handle<Native>::clear();
        contexts_.clear();
    }

private:
    void drop() override {
        ContextsHold contexts = std::move(contexts_);
        const LetGo<Native> native(this->take());
        contexts.reset();
    }

    ContextsHold contexts_;
};

}  // namespace ndv::bindings

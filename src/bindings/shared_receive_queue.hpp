// SPDX-License-Identifier: Apache-2.0
// SharedReceiveQueue as Python sees it.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <utility>

#include "bindings/contexts.hpp"
#include "bindings/handle.hpp"
#include "core/shared_receive_queue.hpp"

namespace ndv::bindings {

class SharedReceiveQueue final : public Handle<core::SharedReceiveQueue> {
public:
    // Takes over a reference to `contexts`.
    SharedReceiveQueue(std::shared_ptr<core::SharedReceiveQueue> native,
                       std::shared_ptr<AdapterState> adapter, Contexts* contexts)
        : Handle("shared receive queue", std::move(native), std::move(adapter)),
          contexts_(contexts) {}
    ~SharedReceiveQueue() {
        detach();
        close();
    }

    void close() {
        Handle::close();
        let_contexts_go();
        run_deferred();
    }
    // Valid while the handle is usable.
    [[nodiscard]] Contexts& contexts() const { return *contexts_; }

private:
    void drop() override {
        const std::shared_ptr<core::SharedReceiveQueue> native = take();
        let_contexts_go();
    }
    void let_contexts_go() {
        if (Contexts* const contexts = std::exchange(contexts_, nullptr)) contexts->release();
    }
    Contexts* contexts_;
};

}  // namespace ndv::bindings

// SPDX-License-Identifier: Apache-2.0
// QueuePair as Python sees it. Its posting calls are in hot.cpp.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <utility>

#include "bindings/contexts.hpp"
#include "bindings/handle.hpp"
#include "core/queue_pair.hpp"

namespace ndv::bindings {

class QueuePair final : public Handle<core::QueuePair> {
public:
    // Takes over a reference to `contexts`.
    QueuePair(std::shared_ptr<core::QueuePair> native, std::shared_ptr<AdapterState> adapter,
              Contexts* contexts)
        : Handle("queue pair", std::move(native), std::move(adapter)), contexts_(contexts) {}
    ~QueuePair() {
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
        const std::shared_ptr<core::QueuePair> native = take();
        let_contexts_go();
    }
    void let_contexts_go() {
        if (Contexts* const contexts = std::exchange(contexts_, nullptr)) contexts->release();
    }

    Contexts* contexts_;
};

}  // namespace ndv::bindings

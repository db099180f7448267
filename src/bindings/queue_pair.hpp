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

class QueuePair : public Handle<core::QueuePair> {
public:
    // Takes over a reference to `contexts`.
    QueuePair(std::shared_ptr<core::QueuePair> native, std::shared_ptr<AdapterState> adapter,
              Contexts* contexts)
        : Handle("queue pair", std::move(native), std::move(adapter)), contexts_(contexts) {}
    ~QueuePair() {
        close();
        contexts_->release();
    }

    [[nodiscard]] Contexts& contexts() const { return *contexts_; }

private:
    Contexts* const contexts_;
};

}  // namespace ndv::bindings

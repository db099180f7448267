// SPDX-License-Identifier: Apache-2.0
// QueuePair as Python sees it. Its posting calls are in hot/queue_pair.cpp.
#pragma once

#include <memory>
#include <utility>

#include "bindings/python/context_handle.hpp"
#include "core/queue_pair.hpp"

namespace ndv::bindings {

class QueuePair final : public HandleWithContexts<core::QueuePair> {
public:
    QueuePair(std::shared_ptr<core::QueuePair> native, std::shared_ptr<AdapterState> adapter,
              ContextsHold contexts)
        : HandleWithContexts("queue pair", std::move(native), std::move(adapter),
                             std::move(contexts)) {}
};

}  // namespace ndv::bindings

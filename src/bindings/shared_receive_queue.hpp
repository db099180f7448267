// SPDX-License-Identifier: Apache-2.0
// SharedReceiveQueue as Python sees it.
#pragma once

#include <memory>
#include <utility>

#include "bindings/python/context_handle.hpp"
#include "core/shared_receive_queue.hpp"

namespace ndv::bindings {

class SharedReceiveQueue final : public HandleWithContexts<core::SharedReceiveQueue> {
public:
    SharedReceiveQueue(std::shared_ptr<core::SharedReceiveQueue> native,
                       std::shared_ptr<AdapterState> adapter, ContextsHold contexts)
        : HandleWithContexts("shared receive queue", std::move(native), std::move(adapter),
                             std::move(contexts)) {}
};

}  // namespace ndv::bindings

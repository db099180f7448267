// SPDX-License-Identifier: Apache-2.0
// Python's enums, and their members without a lookup.
#pragma once

#include <pybind11/pybind11.h>

#include "core/extension.hpp"
#include "core/types.hpp"

namespace ndv::bindings {

namespace py = pybind11;

// core has these two as plain bits; Python as IntFlag.
enum class Flag : std::uint32_t {
    silent_success = core::flag::kSilentSuccess,
    read_fence = core::flag::kReadFence,
    send_and_solicit_event = core::flag::kSendAndSolicitEvent,
    allow_remote_read = core::flag::kAllowRemoteRead,
    allow_local_write = core::flag::kAllowLocalWrite,
    allow_remote_write = core::flag::kAllowRemoteWrite,
    inline_data = core::flag::kInline,
    rdma_read_sink = core::flag::kRdmaReadSink,
    rdma_read_local_invalidate = core::flag::kRdmaReadLocalInvalidate,
    defer = core::flag::kDefer,
    allow_remote_atomic = core::flag::kAllowRemoteAtomic,
};

enum class Access : std::uint32_t {
    local_read = core::access::kLocalRead,
    local_write = core::access::kLocalWrite,
    remote_read = core::access::kRemoteRead,
    remote_write = core::access::kRemoteWrite,
    rdma_read_sink = core::access::kRdmaReadSink,
    remote_atomic = core::access::kRemoteAtomic,
};

// New references to the members.
[[nodiscard]] PyObject* status_member(Status status);
[[nodiscard]] PyObject* operation_type_member(core::OperationType type);
[[nodiscard]] py::object access_member(std::uint32_t rights);

// The names of the calls of an extension, as query_extension() returns them.
[[nodiscard]] py::tuple call_names(const core::extension::Entry& entry);

}  // namespace ndv::bindings

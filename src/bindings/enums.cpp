// SPDX-License-Identifier: Apache-2.0
// Enums from the one list each: statuses from base/status.hpp, the rest from core/types.hpp.
#include "bindings/enums.hpp"

#include <pybind11/native_enum.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <string>

#include "bindings/module.hpp"

namespace ndv::bindings {
namespace {

using core::Notify;
using core::OperationType;

constexpr std::array kStatuses = {
#define NDV_X(name, value, meaning) Status::name,
    NDV_STATUS_LIST(NDV_X)
#undef NDV_X
};

constexpr std::array kOperationTypes = {
    OperationType::receive,       OperationType::send,
    OperationType::fast_register, OperationType::bind,
    OperationType::invalidate,    OperationType::read,
    OperationType::write,         OperationType::receive_and_invalidate,
    OperationType::fetch_add,     OperationType::compare_swap,
};

// Members by the position of their value above; never released.
constinit std::array<PyObject*, kStatuses.size()> status_members{};
constinit std::array<PyObject*, kOperationTypes.size()> operation_type_members{};
constinit PyObject* access_type = nullptr;

std::string upper(std::string_view name) {
    std::string out(name);
    std::ranges::transform(out, out.begin(), [](unsigned char character) {
        return static_cast<char>(std::toupper(character));
    });
    return out;
}

}  // namespace

void bind_enums(py::module_& module) {
    py::native_enum<Status> statuses(module, "Status", "enum.IntEnum",
                                     "NDK statuses: unsigned 32-bit NTSTATUS values.");
    for (const Status status : kStatuses) {
        statuses.value(upper(status_name(status)).c_str(), status);
    }
    statuses.finalize();
    py::native_enum<Flag>(module, "Flag", "enum.IntFlag", "Request flags with NDK's values.")
        .value("SILENT_SUCCESS", Flag::silent_success)
        .value("READ_FENCE", Flag::read_fence)
        .value("SEND_AND_SOLICIT_EVENT", Flag::send_and_solicit_event)
        .value("ALLOW_REMOTE_READ", Flag::allow_remote_read)
        .value("ALLOW_LOCAL_WRITE", Flag::allow_local_write)
        .value("ALLOW_REMOTE_WRITE", Flag::allow_remote_write)
        .value("INLINE", Flag::inline_data)
        .value("RDMA_READ_SINK", Flag::rdma_read_sink)
        .value("RDMA_READ_LOCAL_INVALIDATE", Flag::rdma_read_local_invalidate)
        .value("DEFER", Flag::defer)
        .value("ALLOW_REMOTE_ATOMIC", Flag::allow_remote_atomic)
        .finalize();
    py::native_enum<Access>(module, "Access", "enum.IntFlag",
                            "Rights of a registration with NDK's values.")
        .value("LOCAL_READ", Access::local_read)
        .value("LOCAL_WRITE", Access::local_write)
        .value("REMOTE_READ", Access::remote_read)
        .value("REMOTE_WRITE", Access::remote_write)
        .value("RDMA_READ_SINK", Access::rdma_read_sink)
        .value("REMOTE_ATOMIC", Access::remote_atomic)
        .finalize();
    py::native_enum<Notify>(module, "Notify", "enum.IntEnum", "What an arm waits for.")
        .value("ERRORS", Notify::errors)
        .value("ANY", Notify::any)
        .value("SOLICITED", Notify::solicited)
        .finalize();
    py::native_enum<OperationType>(module, "OperationType", "enum.IntEnum",
                                   "What a completion is the end of.")
        .value("RECEIVE", OperationType::receive)
        .value("SEND", OperationType::send)
        .value("FAST_REGISTER", OperationType::fast_register)
        .value("BIND", OperationType::bind)
        .value("INVALIDATE", OperationType::invalidate)
        .value("READ", OperationType::read)
        .value("WRITE", OperationType::write)
        .value("RECEIVE_AND_INVALIDATE", OperationType::receive_and_invalidate)
        .value("FETCH_ADD", OperationType::fetch_add)
        .value("COMPARE_SWAP", OperationType::compare_swap)
        .finalize();

    for (std::size_t i = 0; i < kStatuses.size(); ++i) {
        status_members[i] = py::cast(kStatuses[i]).release().ptr();
    }
    for (std::size_t i = 0; i < kOperationTypes.size(); ++i) {
        operation_type_members[i] = py::cast(kOperationTypes[i]).release().ptr();
    }
    access_type = module.attr("Access").cast<py::object>().release().ptr();
}

PyObject* status_member(Status status) {
    // success is the first; the rest is rare enough for a search.
    const auto found = std::ranges::find(kStatuses, status);
    if (found == kStatuses.end()) return PyLong_FromUnsignedLong(static_cast<unsigned>(status));
    return Py_NewRef(status_members[static_cast<std::size_t>(found - kStatuses.begin())]);
}

PyObject* operation_type_member(core::OperationType type) {
    const auto found = std::ranges::find(kOperationTypes, type);
    if (found == kOperationTypes.end()) return PyLong_FromUnsignedLong(static_cast<unsigned>(type));
    return Py_NewRef(
        operation_type_members[static_cast<std::size_t>(found - kOperationTypes.begin())]);
}

py::tuple call_names(const core::extension::Entry& entry) {
    py::list names;
    for (const char* const call : entry.calls) {
        if (call != nullptr) names.append(call);
    }
    return py::tuple(names);
}

py::object access_member(std::uint32_t rights) { return py::handle(access_type)(rights); }

}  // namespace ndv::bindings

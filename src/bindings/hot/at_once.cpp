// SPDX-License-Identifier: Apache-2.0
// Calls for what waits for one request at a time: posted like any other, but one that is done when
// the call returns has no completion, and True says so.
#include <pybind11/pybind11.h>

#include "bindings/hot/method.hpp"
#include "bindings/module.hpp"

namespace ndv::bindings {
namespace {

using core::OperationType;

constinit Parameters<2> send_parameters{"_send_at_once", 2, 2, {"segments", "context"}};
constinit Parameters<3> write_parameters{"_write_at_once", 3, 3, {"segments", "remote", "context"}};
constinit Parameters<3> read_parameters{"_read_at_once", 3, 3, {"segments", "remote", "context"}};
constinit Parameters<4> fetch_add_parameters{
    "_fetch_add_at_once", 4, 4, {"local", "remote", "value", "context"}};
constinit Parameters<5> compare_swap_parameters{
    "_compare_swap_at_once", 5, 5, {"local", "remote", "expected", "new", "context"}};

PyObject* post_at_once(PyObject* self, core::WorkRequest& request, const Given& given) {
    bool is_done = false;
    request.done_at_once = &is_done;
    PyObject* const none = post_request(self, request, given);
    if (none == nullptr) return nullptr;
    Py_DECREF(none);
    return PyBool_FromLong(is_done ? 1 : 0);
}

PyObject* send_at_once(PyObject* self, const Arguments<2>& arguments) {
    const auto& [segments, context] = arguments;
    core::WorkRequest request;
    request.flags = core::flag::kInline;
    return post_at_once(self, request, {segments, nullptr, context, nullptr});
}

PyObject* write_at_once(PyObject* self, const Arguments<3>& arguments) {
    const auto& [segments, remote, context] = arguments;
    core::WorkRequest request;
    request.type = OperationType::write;
    return post_at_once(self, request, {segments, remote, context, nullptr});
}

PyObject* read_at_once(PyObject* self, const Arguments<3>& arguments) {
    const auto& [segments, remote, context] = arguments;
    core::WorkRequest request;
    request.type = OperationType::read;
    return post_at_once(self, request, {segments, remote, context, nullptr});
}

PyObject* fetch_add_at_once(PyObject* self, const Arguments<4>& arguments) {
    const auto& [local, remote, value, context] = arguments;
    core::WorkRequest request;
    request.type = OperationType::fetch_add;
    request.operand = to_word64(value, "n");
    return post_at_once(self, request, {local, remote, context, nullptr});
}

PyObject* compare_swap_at_once(PyObject* self, const Arguments<5>& arguments) {
    const auto& [local, remote, expected, replacement, context] = arguments;
    core::WorkRequest request;
    request.type = OperationType::compare_swap;
    request.compare = to_word64(expected, "expected");
    request.operand = to_word64(replacement, "new");
    return post_at_once(self, request, {local, remote, context, nullptr});
}

}  // namespace

void attach_hot_at_once_calls(const py::handle& cls) {
    attach<send_at_once, send_parameters>(cls);
    attach<write_at_once, write_parameters>(cls);
    attach<read_at_once, read_parameters>(cls);
    attach<fetch_add_at_once, fetch_add_parameters>(cls);
    attach<compare_swap_at_once, compare_swap_parameters>(cls);
}

}  // namespace ndv::bindings

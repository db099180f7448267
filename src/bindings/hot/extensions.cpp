// SPDX-License-Identifier: Apache-2.0
// QueuePair.write_with_immediate, fetch_add and compare_swap: METH_FASTCALL, as all that is posted.
#include <pybind11/pybind11.h>

#include "bindings/hot/method.hpp"
#include "bindings/module.hpp"

namespace ndv::bindings {
namespace {

using core::OperationType;

constinit Parameters<5> write_with_immediate_parameters{
    "write_with_immediate", 3, 3, {"segments", "remote", "immediate", "context", "flags"}};
constinit Parameters<5> fetch_add_parameters{
    "fetch_add", 3, 3, {"local", "remote", "value", "context", "flags"}};
constinit Parameters<6> compare_swap_parameters{
    "compare_swap", 4, 4, {"local", "remote", "expected", "new", "context", "flags"}};

PyObject* write_with_immediate(PyObject* self, const Arguments<5>& arguments) {
    const auto& [segments, remote, immediate, context, flags] = arguments;
    core::WorkRequest request;
    request.type = OperationType::write;
    request.has_immediate = true;
    request.operand = to_unsigned32(immediate, "immediate");
    return post_request(self, request, {segments, remote, context, flags});
}

PyObject* fetch_add(PyObject* self, const Arguments<5>& arguments) {
    const auto& [local, remote, value, context, flags] = arguments;
    core::WorkRequest request;
    request.type = OperationType::fetch_add;
    request.operand = to_word64(value, "value");
    return post_request(self, request, {local, remote, context, flags});
}

PyObject* compare_swap(PyObject* self, const Arguments<6>& arguments) {
    const auto& [local, remote, expected, replacement, context, flags] = arguments;
    core::WorkRequest request;
    request.type = OperationType::compare_swap;
    request.compare = to_word64(expected, "expected");
    request.operand = to_word64(replacement, "new");
    return post_request(self, request, {local, remote, context, flags});
}

}  // namespace

void attach_hot_extension_calls(const py::handle& cls) {
    attach<write_with_immediate, write_with_immediate_parameters>(cls);
    attach<fetch_add, fetch_add_parameters>(cls);
    attach<compare_swap, compare_swap_parameters>(cls);
}

}  // namespace ndv::bindings

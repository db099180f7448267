// SPDX-License-Identifier: Apache-2.0
// QueuePair.write_with_immediate, fetch_add and compare_swap: METH_FASTCALL, as all that is posted.
#include <pybind11/pybind11.h>

#include <array>

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

PyObject* write_with_immediate(PyObject* self, PyObject* const* args, Py_ssize_t count,
                               PyObject* keywords) {
    const auto [segments, remote, immediate, context, flags] =
        parse(write_with_immediate_parameters, args, count, keywords);
    core::WorkRequest request;
    request.type = OperationType::write;
    request.has_immediate = true;
    request.operand = to_unsigned32(immediate, "immediate");
    return post_request(self, request, {segments, remote, context, flags});
}

PyObject* fetch_add(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* keywords) {
    const auto [local, remote, value, context, flags] =
        parse(fetch_add_parameters, args, count, keywords);
    core::WorkRequest request;
    request.type = OperationType::fetch_add;
    request.operand = to_word64(value, "value");
    return post_request(self, request, {local, remote, context, flags});
}

PyObject* compare_swap(PyObject* self, PyObject* const* args, Py_ssize_t count,
                       PyObject* keywords) {
    const auto [local, remote, expected, replacement, context, flags] =
        parse(compare_swap_parameters, args, count, keywords);
    core::WorkRequest request;
    request.type = OperationType::compare_swap;
    request.compare = to_word64(expected, "expected");
    request.operand = to_word64(replacement, "new");
    return post_request(self, request, {local, remote, context, flags});
}

}  // namespace

void attach_hot_extension_calls(const py::handle& cls) {
    write_with_immediate_parameters.intern();
    fetch_add_parameters.intern();
    compare_swap_parameters.intern();
    static std::array definitions = {
        method<write_with_immediate>("write_with_immediate"),
        method<fetch_add>("fetch_add"),
        method<compare_swap>("compare_swap"),
    };
    for (PyMethodDef& definition : definitions) attach(cls, definition);
}

}  // namespace ndv::bindings

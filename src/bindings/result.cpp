// SPDX-License-Identifier: Apache-2.0
// Result, its detail sentence, and result_dtype.
#include "bindings/result.hpp"

#include <structmember.h>

#include <algorithm>
#include <array>
#include <string>

#include "bindings/enums.hpp"
#include "bindings/module.hpp"
#include "bindings/python/contexts.hpp"
#include "core/detail.hpp"
#include "core/outstanding.hpp"

namespace ndv::bindings {
namespace {

constinit PyTypeObject* result_type = nullptr;
constinit PyObject* row_dtype = nullptr;

// Order as in the stub.
constexpr Py_ssize_t kFieldCount = 8;
PyStructSequence_Field fields[] = {
    {"status", "how the request ended, a Status"},
    {"bytes_transferred", "bytes received; 0 for other operations"},
    {"qp_context", "the context of the queue pair"},
    {"request_context", "the context of the request"},
    {"type", "what ended, an OperationType"},
    {"invalidated_token", "the token that the peer invalidated, or 0"},
    {"immediate", "the immediate value that came along, or None"},
    {"detail", "what the device, the peer or the system reported, why it was cancelled, or None"},
    {nullptr, nullptr},
};

PyObject* detail_object(const core::Detail& detail) {
    if (detail.source == core::Detail::Source::none) return Py_NewRef(Py_None);
    const std::string text = core::detail_text(detail);
    return PyUnicode_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size()));
}

Contexts* contexts_of(const core::Completion& completion) {
    // Every queue pair of this extension is made with the binding's own contexts.
    return static_cast<Contexts*>(completion.requests->contexts());
}

}  // namespace

PyObject* make_result(const core::Completion& completion) {
    Contexts* const contexts = contexts_of(completion);
    PyObject* const request_context =
        contexts->give_back(completion.context, completion.context_is_object);
    PyObject* const result = PyStructSequence_New(result_type);
    if (result != nullptr && request_context != nullptr) {
        PyStructSequence_SET_ITEM(result, 0, status_member(completion.status));
        PyStructSequence_SET_ITEM(result, 1, PyLong_FromUnsignedLong(completion.bytes_transferred));
        PyStructSequence_SET_ITEM(result, 2, Py_NewRef(contexts->queue_pair_context()));
        PyStructSequence_SET_ITEM(result, 3, request_context);
        PyStructSequence_SET_ITEM(result, 4, operation_type_member(completion.type));
        PyStructSequence_SET_ITEM(result, 5, PyLong_FromUnsignedLong(completion.invalidated_token));
        PyStructSequence_SET_ITEM(result, 6,
                                  completion.has_immediate
                                      ? PyLong_FromUnsignedLongLong(completion.immediate)
                                      : Py_NewRef(Py_None));
        PyStructSequence_SET_ITEM(result, 7, detail_object(completion.detail));
    } else {
        Py_XDECREF(request_context);
    }
    completion.requests->end();
    if (PyErr_Occurred() != nullptr) {  // out of memory somewhere above
        Py_XDECREF(result);
        return nullptr;
    }
    return result;
}

void fill_row(const core::Completion& completion, ResultRow& row) {
    Contexts* const contexts = contexts_of(completion);
    const bool was_object = completion.context_is_object && completion.context != 0;
    row.status = static_cast<std::uint32_t>(completion.status);
    row.type = static_cast<std::uint32_t>(completion.type);
    row.bytes_transferred = completion.bytes_transferred;
    row.qp_context = contexts->queue_pair_number();
    row.request_context = completion.context_is_object ? 0 : completion.context;
    row.immediate = completion.has_immediate ? completion.immediate : 0;
    row.invalidated_token = completion.invalidated_token;
    row.flags = (completion.is_solicited ? kRowSolicited : 0) |
                (completion.has_immediate ? kRowHasImmediate : 0) |
                (was_object ? kRowContextWasObject : 0);
    if (was_object) contexts->forget({completion.context, true});
    completion.requests->end();
}

PyObject* result_dtype() { return row_dtype; }

void bind_result(py::module_& module) {
    PyStructSequence_Desc description{"ndverbs._native.Result", "One completion.", fields,
                                      kFieldCount};
    result_type = PyStructSequence_NewType(&description);
    if (result_type == nullptr) throw py::error_already_set();
    module.attr("Result") = py::handle(reinterpret_cast<PyObject*>(result_type));

    py::list description_of_rows;
    const auto add = [&description_of_rows](const char* name, const char* type) {
        description_of_rows.append(py::make_tuple(name, type));
    };
    add("status", "u4");
    add("type", "u4");
    add("bytes_transferred", "u8");
    add("qp_context", "u8");
    add("request_context", "u8");
    add("immediate", "u8");
    add("invalidated_token", "u4");
    add("flags", "u4");
    py::object dtype = py::module_::import("numpy").attr("dtype")(description_of_rows);
    module.attr("result_dtype") = dtype;
    row_dtype = dtype.release().ptr();
}

}  // namespace ndv::bindings

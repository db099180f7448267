// SPDX-License-Identifier: Apache-2.0
// Result, its detail sentence, and result_dtype.
#include "bindings/result.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
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

constexpr Column kColumns[] = {
#define NDV_X(type, name, ...) {#name, sizeof(type), offsetof(ResultRow, name)},
    NDV_RESULT_LIST(NDV_X) NDV_X(std::uint32_t, flags)
#undef NDV_X
};

// What a row has no room for is no column, as flags are no field. document() adds the pages.
constexpr std::size_t kDetail = std::size(kColumns) - 1;  // behind the fields of the list
constexpr Py_ssize_t kFieldCount = kDetail + 1;
constinit std::array<PyStructSequence_Field, std::size(kColumns) + 1> fields = [] {
    std::array<PyStructSequence_Field, std::size(kColumns) + 1> out{};  // the last one ends them
#define NDV_X(type, name, index, ...) out[index] = {#name, nullptr};
    NDV_RESULT_LIST(NDV_X)
    NDV_X(, detail, kDetail)
#undef NDV_X
    return out;
}();

PyObject* immediate_object(const core::Completion& done) {
    return done.has_immediate ? PyLong_FromUnsignedLongLong(done.immediate) : Py_NewRef(Py_None);
}

PyObject* detail_object(const core::Detail& detail) {
    if (detail.source == core::Detail::Source::none) return Py_NewRef(Py_None);
    const std::string text = core::detail_text(detail);
    return PyUnicode_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size()));
}

Contexts* contexts_of(const core::Completion& done) {
    // Every queue pair of this extension is made with the binding's own contexts.
    return static_cast<Contexts*>(done.requests->contexts());
}

}  // namespace

PyObject* make_result(const core::Completion& done) {
    Contexts* const contexts = contexts_of(done);
    PyObject* const request_context = contexts->give_back(done.context, done.context_is_object);
    // As PyStructSequence_New(), which looks its size up in the type's dictionary, twice.
    PyObject* const result = result_type->tp_alloc(result_type, kFieldCount);
    if (result != nullptr && request_context != nullptr) {
#define NDV_X(type, name, index, object, number) PyStructSequence_SET_ITEM(result, index, object);
        NDV_RESULT_LIST(NDV_X)
#undef NDV_X
        PyStructSequence_SET_ITEM(result, kDetail, detail_object(done.detail));
    } else {
        Py_XDECREF(request_context);
    }
    done.requests->end();
    if (PyErr_Occurred() != nullptr) {  // out of memory somewhere above
        Py_XDECREF(result);
        return nullptr;
    }
    return result;
}

void fill_row(const core::Completion& done, ResultRow& row) {
    Contexts* const contexts = contexts_of(done);
    const bool was_object = done.context_is_object && done.context != 0;
#define NDV_X(type, name, index, object, number) row.name = number;
    NDV_RESULT_LIST(NDV_X)
#undef NDV_X
    row.flags = (done.is_solicited ? kRowSolicited : 0) |
                (done.has_immediate ? kRowHasImmediate : 0) |
                (was_object ? kRowContextWasObject : 0);
    if (was_object) contexts->forget({done.context, true});
}

PyObject* result_dtype() { return row_dtype; }

py::object dtype_of(std::span<const Column> columns, std::size_t row_size) {
    py::list names;
    py::list formats;
    py::list offsets;
    for (const Column& column : columns) {
        names.append(column.name);
        formats.append("u" + std::to_string(column.size));
        offsets.append(column.offset);
    }
    py::dict description;
    description["names"] = names;
    description["formats"] = formats;
    description["offsets"] = offsets;
    description["itemsize"] = row_size;
    return py::module_::import("numpy").attr("dtype")(description);
}

void bind_result(py::module_& module) {
    PyStructSequence_Desc description{"ndverbs._native.Result", nullptr, fields.data(),
                                      static_cast<int>(fields.size()) - 1};
    result_type = PyStructSequence_NewType(&description);
    if (result_type == nullptr) throw py::error_already_set();
    module.attr("Result") = py::handle(reinterpret_cast<PyObject*>(result_type));

    py::object dtype = dtype_of(kColumns, sizeof(ResultRow));
    module.attr("result_dtype") = dtype;
    row_dtype = dtype.release().ptr();
    module.def(
        "_terminate_text",
        [](std::uint8_t layer, std::uint8_t error_type, std::uint8_t code) {
            return core::detail_text({core::Detail::Source::peer, layer, error_type, code, 0, 0});
        },
        py::arg("layer"), py::arg("error_type"), py::arg("code"));
}

}  // namespace ndv::bindings

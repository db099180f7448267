// SPDX-License-Identifier: Apache-2.0
// Result, its detail sentence, and result_dtype.
#include "bindings/result.hpp"

#include <structmember.h>

#include <algorithm>
#include <array>
#include <string>
#include <system_error>

#include "bindings/contexts.hpp"
#include "bindings/enums.hpp"
#include "bindings/module.hpp"

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
    {"detail", "what the device, the peer or the system reported, or None"},
    {nullptr, nullptr},
};

// Names of the Terminate codes: RFC 5040 section 4.8, RFC 5041 section 8.2, RFC 5044 section 8,
// RFC 6581 section 8.
struct CodeName {
    std::uint8_t layer;
    std::uint8_t error_type;
    int code;  // kAnyCode: the type has no codes
    const char* text;
};
constexpr int kAnyCode = -1;
constexpr CodeName kCodeNames[] = {
    {0, 0, kAnyCode, "RDMAP local catastrophic error"},
    {0, 1, 0x00, "RDMAP remote protection error: invalid STag"},
    {0, 1, 0x01, "RDMAP remote protection error: base or bounds violation"},
    {0, 1, 0x02, "RDMAP remote protection error: access rights violation"},
    {0, 1, 0x03, "RDMAP remote protection error: STag not associated with the stream"},
    {0, 1, 0x04, "RDMAP remote protection error: tagged offset wrap"},
    {0, 1, 0x09, "RDMAP remote protection error: STag cannot be invalidated"},
    {0, 1, 0xFF, "RDMAP remote protection error: unspecified"},
    {0, 2, 0x05, "RDMAP remote operation error: invalid RDMAP version"},
    {0, 2, 0x06, "RDMAP remote operation error: unexpected opcode"},
    {0, 2, 0x07, "RDMAP remote operation error: catastrophic, localized to the stream"},
    {0, 2, 0x08, "RDMAP remote operation error: catastrophic, global"},
    {0, 2, 0x09, "RDMAP remote operation error: STag cannot be invalidated"},
    {0, 2, 0xFF, "RDMAP remote operation error: unspecified"},
    {1, 0, kAnyCode, "DDP local catastrophic error"},
    {1, 1, 0x00, "DDP tagged buffer error: invalid STag"},
    {1, 1, 0x01, "DDP tagged buffer error: base or bounds violation"},
    {1, 1, 0x02, "DDP tagged buffer error: STag not associated with the stream"},
    {1, 1, 0x03, "DDP tagged buffer error: tagged offset wrap"},
    {1, 1, 0x04, "DDP tagged buffer error: invalid DDP version"},
    {1, 2, 0x01, "DDP untagged buffer error: invalid queue number"},
    {1, 2, 0x02, "DDP untagged buffer error: no receive was posted for the message"},
    {1, 2, 0x03, "DDP untagged buffer error: message sequence number out of range"},
    {1, 2, 0x04, "DDP untagged buffer error: invalid message offset"},
    {1, 2, 0x05, "DDP untagged buffer error: message longer than the posted receive"},
    {1, 2, 0x06, "DDP untagged buffer error: invalid DDP version"},
    {2, 0, 0x01, "MPA error: TCP connection closed, terminated or lost"},
    {2, 0, 0x02, "MPA error: CRC error"},
    {2, 0, 0x03, "MPA error: marker and length mismatch"},
    {2, 0, 0x04, "MPA error: invalid request or reply frame"},
    {2, 0, 0x05, "MPA error: local catastrophic error in the enhanced setup"},
    {2, 0, 0x06, "MPA error: insufficient IRD resources"},
    {2, 0, 0x07, "MPA error: no matching RTR option"},
};

std::string code_text(const core::Detail& detail) {
    const auto* found = std::ranges::find_if(kCodeNames, [&detail](const CodeName& name) {
        return name.layer == detail.layer && name.error_type == detail.error_type &&
               (name.code == kAnyCode || name.code == detail.code);
    });
    const char* const text = found == std::end(kCodeNames) ? "unknown error" : found->text;
    constexpr const char* kDigits = "0123456789abcdef";
    const std::array<char, 3> code = {kDigits[detail.code >> 4U], kDigits[detail.code & 15U], 0};
    return std::string(text) + " (" + std::to_string(detail.layer) + "/" +
           std::to_string(detail.error_type) + "/" + code.data() + ")";
}

// ibv_wc_status by number.
constexpr std::array<const char*, 24> kDeviceStatusNames = {
    "success",
    "local length error",
    "local QP operation error",
    "local EE context operation error",
    "local protection error",
    "work request flushed",
    "memory window bind error",
    "bad response",
    "local access error",
    "remote invalid request",
    "remote access error",
    "remote operation error",
    "transport retries exceeded",
    "receiver-not-ready retries exceeded",
    "local RDD violation",
    "remote invalid RD request",
    "remote aborted",
    "invalid EE context number",
    "invalid EE context state",
    "fatal error",
    "response timeout",
    "general error",
    "tag matching error",
    "tag matching rendezvous incomplete",
};

std::string device_text(const core::Detail& detail) {
    const char* const name = detail.code < kDeviceStatusNames.size()
                                 ? kDeviceStatusNames[detail.code]
                                 : "unknown status";
    return "the device reported: " + std::string(name) + " (status " + std::to_string(detail.code) +
           ", vendor code " + std::to_string(detail.vendor_error) + ")";
}

std::string detail_text(const core::Detail& detail) {
    switch (detail.source) {
        case core::Detail::Source::none:
            break;
        case core::Detail::Source::local:
            return "this side terminated the stream: " + code_text(detail);
        case core::Detail::Source::peer:
            return "peer terminated the stream: " + code_text(detail);
        case core::Detail::Source::device:
            return device_text(detail);
        case core::Detail::Source::system:
            // std::generic_category is strerror without its static buffer.
            return "the system reported: " + std::generic_category().message(detail.os_error) +
                   " (errno " + std::to_string(detail.os_error) + ")";
    }
    return {};
}

PyObject* detail_object(const core::Detail& detail) {
    if (detail.source == core::Detail::Source::none) return Py_NewRef(Py_None);
    const std::string text = detail_text(detail);
    return PyUnicode_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size()));
}

Contexts* contexts_of(const core::Completion& completion) {
    // Every queue pair of this extension is made with the binding's own contexts.
    return static_cast<Contexts*>(completion.contexts);
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
    contexts->release();
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
    contexts->release();
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

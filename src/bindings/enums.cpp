// SPDX-License-Identifier: Apache-2.0
// Python's enums: the lists of base/status.hpp and core/types.hpp.
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

template <typename Enum>
struct Entry {
    const char* name;
    Enum value;
};

#define NDV_X(name, value, ...) {#name, Status::name},
constexpr auto kStatuses = std::to_array<Entry<Status>>({NDV_STATUS_LIST(NDV_X)});
#undef NDV_X
#define NDV_X(name, value, ...) {#name, OperationType::name},
constexpr auto kOperationTypes = std::to_array<Entry<OperationType>>({NDV_OPERATION_LIST(NDV_X)});
#undef NDV_X
#define NDV_X(name, value) {#name, Notify::name},
constexpr auto kNotifies = std::to_array<Entry<Notify>>({NDV_NOTIFY_LIST(NDV_X)});
#undef NDV_X
#define NDV_X(constant, name, value) {#name, Flag{value}},
constexpr auto kFlags = std::to_array<Entry<Flag>>({NDV_FLAG_LIST(NDV_X)});
#undef NDV_X
#define NDV_X(constant, name, value) {#name, Access{value}},
constexpr auto kAccesses = std::to_array<Entry<Access>>({NDV_ACCESS_LIST(NDV_X)});
#undef NDV_X

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

template <typename Enum, std::size_t kSize>
void bind(py::module_& module, const char* name, const char* base,
          const std::array<Entry<Enum>, kSize>& entries) {
    py::native_enum<Enum> made(module, name, base);
    for (const Entry<Enum>& entry : entries) made.value(upper(entry.name).c_str(), entry.value);
    made.finalize();
}

// A new reference. What comes first is found first: success, and what a receive ends as.
template <typename Enum, std::size_t kSize>
PyObject* member(const std::array<Entry<Enum>, kSize>& entries,
                 const std::array<PyObject*, kSize>& members, Enum value) {
    const auto found = std::ranges::find(entries, value, &Entry<Enum>::value);
    if (found == entries.end()) return PyLong_FromUnsignedLong(static_cast<unsigned>(value));
    return Py_NewRef(members[static_cast<std::size_t>(found - entries.begin())]);
}

}  // namespace

void bind_enums(py::module_& module) {
    bind(module, "Status", "enum.IntEnum", kStatuses);
    bind(module, "Flag", "enum.IntFlag", kFlags);
    bind(module, "Access", "enum.IntFlag", kAccesses);
    bind(module, "Notify", "enum.IntEnum", kNotifies);
    bind(module, "OperationType", "enum.IntEnum", kOperationTypes);
    for (std::size_t i = 0; i < kStatuses.size(); ++i) {
        status_members[i] = py::cast(kStatuses[i].value).release().ptr();
    }
    for (std::size_t i = 0; i < kOperationTypes.size(); ++i) {
        operation_type_members[i] = py::cast(kOperationTypes[i].value).release().ptr();
    }
    module.def("_error_classes", [] {
        py::dict out;
#define NDV_X(name, value, exception, meaning) out[py::cast(Status::name)] = #exception;
        NDV_STATUS_LIST(NDV_X)
#undef NDV_X
        return out;
    });
    module.def("_status_meanings", [] {
        py::dict out;
#define NDV_X(name, value, exception, meaning) out[py::cast(Status::name)] = meaning;
        NDV_STATUS_LIST(NDV_X)
#undef NDV_X
        return out;
    });
    access_type = module.attr("Access").cast<py::object>().release().ptr();
}

PyObject* status_member(Status status) { return member(kStatuses, status_members, status); }

PyObject* operation_type_member(OperationType type) {
    return member(kOperationTypes, operation_type_members, type);
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

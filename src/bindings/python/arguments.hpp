// SPDX-License-Identifier: Apache-2.0
// Arguments of METH_FASTCALL | METH_KEYWORDS functions, without boxing or allocation, and of other
// functions what pybind11 does not convert. Everything here raises py::error_already_set.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace ndv::bindings {

namespace py = pybind11;

// The parameters of one function: the first `positional` may be given by position, all by name,
// the first `required` must be given.
template <std::size_t kCount>
struct Parameters {
    const char* function;
    std::size_t positional;
    std::size_t required;
    std::array<const char*, kCount> names;
    std::array<PyObject*, kCount> interned{};  // of `names`, by intern()

    void intern() {
        for (std::size_t i = 0; i < kCount; ++i) {
            interned[i] = PyUnicode_InternFromString(names[i]);
            if (interned[i] == nullptr) throw py::error_already_set();
        }
    }
};

// A TypeError with what is wrong with a call; the format is PyErr_Format's.
[[noreturn]] void raise_type_error(const char* format, ...);

// Borrowed references in the order of the parameters; null for what was not given.
template <std::size_t kCount>
using Arguments = std::array<PyObject*, kCount>;

template <std::size_t kCount>
Arguments<kCount> parse(const Parameters<kCount>& parameters, PyObject* const* args,
                        Py_ssize_t count, PyObject* keywords) {
    Arguments<kCount> out{};
    const auto given = static_cast<std::size_t>(count);
    if (given > parameters.positional) {
        raise_type_error("%s() takes at most %zu positional arguments (%zd given)",
                         parameters.function, parameters.positional, count);
    }
    for (std::size_t i = 0; i < given; ++i) out[i] = args[i];
    const Py_ssize_t keyword_count = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
    for (Py_ssize_t k = 0; k < keyword_count; ++k) {
        PyObject* const keyword = PyTuple_GET_ITEM(keywords, k);
        std::size_t at = 0;
        // Names in source code are interned; the second pass is for those that are not.
        while (at < kCount && parameters.interned[at] != keyword) ++at;
        if (at == kCount) {
            at = 0;
            while (at < kCount && PyUnicode_Compare(parameters.interned[at], keyword) != 0) ++at;
        }
        if (at == kCount) {
            raise_type_error("%s() got an unexpected keyword argument '%U'", parameters.function,
                             keyword);
        }
        if (out[at] != nullptr) {
            raise_type_error("%s() got multiple values for argument '%s'", parameters.function,
                             parameters.names[at]);
        }
        out[at] = args[count + k];
    }
    for (std::size_t i = 0; i < parameters.required; ++i) {
        if (out[i] == nullptr) {
            raise_type_error("%s() missing required argument: '%s'", parameters.function,
                             parameters.names[i]);
        }
    }
    return out;
}

// Integers of a call, anything with __index__; `name` is for the message. What is no integer raises
// TypeError.
[[nodiscard]] std::uint64_t to_unsigned64(PyObject* object, const char* name);
[[nodiscard]] std::uint32_t to_unsigned32(PyObject* object, const char* name);
// Also a negative integer, as two's complement.
[[nodiscard]] std::uint64_t to_word64(PyObject* object, const char* name);
// A copy of bytes, bytearray, memoryview or another contiguous buffer.
[[nodiscard]] std::vector<std::byte> to_bytes(const py::object& object, const char* name);
// str, bytes or os.PathLike, in the file system's encoding; a null character is refused.
[[nodiscard]] std::string to_path(const py::object& object, const char* name);

}  // namespace ndv::bindings

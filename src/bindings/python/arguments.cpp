// SPDX-License-Identifier: Apache-2.0
// The cold half of argument parsing.
#include "bindings/python/arguments.hpp"

#include <cstdarg>
#include <limits>
#include <string>

#include "bindings/python/buffer.hpp"
#include "bindings/python/errors.hpp"
#include "bindings/python/integers.hpp"

namespace ndv::bindings {
namespace {

[[noreturn]] void raise_out_of_range(py::handle number, const char* name, int bits) {
    const auto length = number.attr("bit_length")().cast<std::size_t>();
    // Python does not write numbers of thousands of digits.
    const std::string text = length <= 128 ? py::str(number).cast<std::string>()
                                           : "of " + std::to_string(length) + " bits";
    raise(Status::invalid_parameter,
          std::string(name) + " " + text + " does not fit an unsigned " + std::to_string(bits) +
              "-bit integer",
          "give a number from 0 to 2**" + std::to_string(bits) + " - 1");
}

}  // namespace

void raise_type_error(const char* format, ...) {
    std::va_list given;
    va_start(given, format);
    PyErr_FormatV(PyExc_TypeError, format, given);
    va_end(given);
    throw py::error_already_set();
}

std::uint64_t to_unsigned64(PyObject* object, const char* name) {
    if (PyLong_Check(object) == 0) {
        const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(object));
        if (!index) {
            py::error_already_set cause;  // takes it
            if (!cause.matches(PyExc_TypeError)) throw cause;
            throw py::type_error(std::string(name) + " must be an integer, not " +
                                 Py_TYPE(object)->tp_name);
        }
        return to_unsigned64(index.ptr(), name);
    }
    const unsigned long long value = PyLong_AsUnsignedLongLong(object);
    if (value == std::numeric_limits<unsigned long long>::max() && PyErr_Occurred() != nullptr) {
        PyErr_Clear();  // an OverflowError
        raise_out_of_range(object, name, 64);
    }
    return value;
}

std::uint64_t to_word64(PyObject* object, const char* name) {
    int overflow = 0;
    // Any other mistake is made, and reported, once more below.
    const long long value = PyLong_AsLongLongAndOverflow(object, &overflow);
    if (PyErr_Occurred() == nullptr && overflow == 0) return static_cast<std::uint64_t>(value);
    PyErr_Clear();
    return to_unsigned64(object, name);
}

std::uint32_t to_unsigned32(PyObject* object, const char* name) {
    const std::uint64_t value = to_unsigned64(object, name);
    if (value > std::numeric_limits<std::uint32_t>::max()) raise_out_of_range(object, name, 32);
    return static_cast<std::uint32_t>(value);
}

std::vector<std::byte> to_bytes(const py::object& object, const char* name) {
    Export exported;
    if (!exported.try_take(object.ptr(), PyBUF_SIMPLE)) {
        const py::error_already_set cause;  // takes it
        throw py::type_error(std::string(name) +
                             " must be bytes, bytearray or another contiguous buffer, not " +
                             Py_TYPE(object.ptr())->tp_name);
    }
    return {exported.data(), exported.data() + exported.size()};
}

std::string to_path(const py::object& object, const char* name) {
    const auto path = py::reinterpret_steal<py::object>(PyOS_FSPath(object.ptr()));
    if (!path) {
        py::error_already_set cause;  // takes it
        if (!cause.matches(PyExc_TypeError)) throw cause;
        throw py::type_error(std::string(name) + " must be a str, bytes or path, not " +
                             Py_TYPE(object.ptr())->tp_name);
    }
    PyObject* encoded = nullptr;
    if (PyUnicode_FSConverter(path.ptr(), &encoded) == 0) {
        py::error_already_set cause;  // takes it
        if (!cause.matches(PyExc_ValueError)) throw cause;
        raise(Status::invalid_parameter,
              std::string(name) + " " + py::repr(path).cast<std::string>() +
                  " is no path: " + py::str(cause.value()).cast<std::string>());
    }
    return py::reinterpret_steal<py::bytes>(encoded);
}

}  // namespace ndv::bindings

// SPDX-License-Identifier: Apache-2.0
// The cold half of argument parsing.
#include "bindings/arguments.hpp"

#include <limits>
#include <string>

#include "bindings/errors.hpp"

namespace ndv::bindings {

void raise_too_many(const char* function, std::size_t most, Py_ssize_t count) {
    PyErr_Format(PyExc_TypeError, "%s() takes at most %zu positional arguments (%zd given)",
                 function, most, count);
    throw py::error_already_set();
}

void raise_missing(const char* function, const char* name) {
    PyErr_Format(PyExc_TypeError, "%s() missing required argument: '%s'", function, name);
    throw py::error_already_set();
}

void raise_given_twice(const char* function, const char* name) {
    PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%s'", function, name);
    throw py::error_already_set();
}

void raise_unexpected(const char* function, PyObject* name) {
    PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", function, name);
    throw py::error_already_set();
}

std::uint64_t to_unsigned64(PyObject* object, const char* name) {
    const unsigned long long value = PyLong_AsUnsignedLongLong(object);
    if (value == std::numeric_limits<unsigned long long>::max() && PyErr_Occurred() != nullptr) {
        const py::error_already_set cause;  // takes it
        if (cause.matches(PyExc_OverflowError)) {
            raise(Status::invalid_parameter, std::string(name) + " " +
                                                 py::str(object).cast<std::string>() +
                                                 " does not fit an unsigned 64-bit integer");
        }
        throw cause;
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
    if (value > std::numeric_limits<std::uint32_t>::max()) {
        raise(Status::invalid_parameter, std::string(name) + " " + std::to_string(value) +
                                             " does not fit an unsigned 32-bit integer");
    }
    return static_cast<std::uint32_t>(value);
}

}  // namespace ndv::bindings

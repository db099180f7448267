// SPDX-License-Identifier: Apache-2.0
// Integer parameters of pybind11 functions: anything with __index__, NumPy's integers among them,
// inside the range of the parameter's type; never a float, which pybind11 itself would cut.
// Included by whatever binds functions, before the first of them.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <limits>

namespace pybind11::detail {

template <typename T>
class unsigned_caster {
public:
    bool load(handle source, bool /*convert*/) {
        const auto index = reinterpret_steal<object>(PyNumber_Index(source.ptr()));
        if (!index) return was_expected(PyExc_TypeError);
        const unsigned long long found = PyLong_AsUnsignedLongLong(index.ptr());
        if (PyErr_Occurred() != nullptr) return was_expected(PyExc_OverflowError);
        if (found > std::numeric_limits<T>::max()) return false;
        value = static_cast<T>(found);
        return true;
    }
    static handle cast(T source, return_value_policy /*policy*/, handle /*parent*/) {
        return PyLong_FromUnsignedLongLong(source);
    }

protected:
    T value = 0;

private:
    // What else an __index__ raises is the caller's.
    static bool was_expected(PyObject* kind) {
        if (PyErr_ExceptionMatches(kind) == 0) throw error_already_set();
        PyErr_Clear();
        return false;
    }
};

// The names are those that ndverbs._calls reads out of signatures.
template <>
class type_caster<std::uint32_t> : public unsigned_caster<std::uint32_t> {
public:
    static constexpr auto name = const_name("uint32");
    template <typename>
    using cast_op_type = std::uint32_t;
    operator std::uint32_t() const { return value; }
};

template <>
class type_caster<std::uint64_t> : public unsigned_caster<std::uint64_t> {
public:
    static constexpr auto name = const_name("uint64");
    template <typename>
    using cast_op_type = std::uint64_t;
    operator std::uint64_t() const { return value; }
};

}  // namespace pybind11::detail

// SPDX-License-Identifier: Apache-2.0
// Arrays of NumPy in memory of an adapter.
#include <pybind11/numpy.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings/module.hpp"
#include "bindings/python/adapter_state.hpp"
#include "bindings/python/errors.hpp"
#include "bindings/python/gil.hpp"

namespace ndv::bindings {
namespace {

// The same exception, with the argument's name.
[[noreturn]] void rename_error(py::error_already_set& error, const char* argument,
                               const py::object& value) {
    const std::string text =
        std::string("alloc_array: ") + argument + " is " + py::repr(value).cast<std::string>();
    py::raise_from(error, error.matches(PyExc_TypeError) ? PyExc_TypeError : PyExc_ValueError,
                   text.c_str());
    throw py::error_already_set();
}

// A count, or a sequence of them.
std::vector<py::ssize_t> shape_of(const py::object& shape) {
    try {
        const auto count = [](const py::handle& one) {
            const py::ssize_t size = PyNumber_AsSsize_t(one.ptr(), PyExc_ValueError);
            if (size == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
            return size;
        };
        if (PyIndex_Check(shape.ptr()) != 0) return {count(shape)};
        std::vector<py::ssize_t> sizes;
        for (const py::handle& one : shape) sizes.push_back(count(one));
        return sizes;
    } catch (py::error_already_set& error) {
        rename_error(error, "shape", shape);
    }
}

py::dtype type_of(const py::object& dtype) {
    try {
        return py::dtype::from_args(dtype);
    } catch (py::error_already_set& error) {
        rename_error(error, "dtype", dtype);
    }
}

}  // namespace

py::object alloc_array(const std::shared_ptr<AdapterState>& adapter, const py::object& shape,
                       const py::object& dtype) {
    const py::dtype type = type_of(dtype);
    const auto given = [&] {
        return "alloc_array: shape " + py::repr(shape).cast<std::string>() + " of " +
               py::repr(type).cast<std::string>();
    };
    if (type.attr("hasobject").cast<bool>()) {
        raise(Status::invalid_parameter, given() + ": Python objects are no memory to share",
              "give a dtype of numbers or bytes");
    }
    const std::vector<py::ssize_t> sizes = shape_of(shape);
    auto bytes = static_cast<std::size_t>(type.itemsize());
    bool is_sound = true;
    for (const py::ssize_t size : sizes) {
        is_sound = is_sound && size >= 0 &&
                   !__builtin_mul_overflow(bytes, static_cast<std::size_t>(size), &bytes);
    }
    if (!is_sound || bytes > static_cast<std::size_t>(PY_SSIZE_T_MAX)) {
        raise(Status::invalid_parameter, given() + " is no size", "give counts from 0 on");
    }
    auto memory = value_or_raise(
        without_gil([native = adapter->get(), bytes] { return native->allocate(bytes); }));
    std::byte* const data = memory.get();
    using Memory = std::shared_ptr<std::byte>;
    auto kept = std::make_unique<Memory>(std::move(memory));
    const py::capsule owner(kept.get(), [](void* gone) { delete static_cast<Memory*>(gone); });
    static_cast<void>(kept.release());
    return py::array(type, sizes, {}, data, owner);
}

}  // namespace ndv::bindings

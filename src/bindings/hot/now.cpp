// SPDX-License-Identifier: Apache-2.0
// Calls beside requests, on memory that the peer has given: what is done when they return, or not
// begun, so that neither a context nor a completion is needed. _Elements are the elements of an
// array of the peer's, one at a time; QueuePair._move_now moves many pieces.
#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "bindings/hot/method.hpp"
#include "bindings/hot/segments.hpp"
#include "bindings/module.hpp"
#include "bindings/python/buffer.hpp"

namespace ndv::bindings {
namespace {

using core::OperationType;

// The queue pair stays with its object, and may be closed.
class Elements {
public:
    Elements(const py::object& qp, const py::object& item, const py::object& remote,
             std::uint64_t count)
        : qp_(qp), handle_(qp.cast<QueuePair&>()), item_(item), count_(count) {
        export_.take_plain("elements", item.ptr(), true);
        set_remote(place_, remote.ptr());
    }

    // Raises an IndexError, as a sequence does.
    [[nodiscard]] std::uint64_t offset(PyObject* index) const {
        Py_ssize_t place = PyNumber_AsSsize_t(index, PyExc_IndexError);
        if (place == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
        const auto count = static_cast<Py_ssize_t>(count_);
        if (place < 0) place += count;
        if (place < 0 || place >= count) {
            PyErr_Format(PyExc_IndexError, "index %R is out of bounds for %zd elements", index,
                         count);
            throw py::error_already_set();
        }
        return static_cast<std::uint64_t>(place) * export_.size();
    }
    [[nodiscard]] bool move(OperationType type, std::uint64_t offset) const {
        const core::Span span{0, offset, export_.size()};
        return handle_.is_usable() &&
               handle_.peek()->move_now(type, export_.data(), place_.remote_address,
                                        place_.remote_token, {&span, 1}) == 1;
    }
    [[nodiscard]] std::optional<std::uint64_t> fetch(core::WorkRequest request,
                                                     std::uint64_t offset) const {
        request.remote_address = place_.remote_address + offset;
        request.remote_token = place_.remote_token;
        std::uint64_t found = 0;
        if (!handle_.is_usable() || !handle_.peek()->fetch_now(request, found)) return {};
        return found;
    }
    [[nodiscard]] const py::object& item() const { return item_; }

private:
    py::object qp_;
    QueuePair& handle_;
    py::object item_;  // an array of one element, that of the last call
    Export export_;
    core::WorkRequest place_;
    std::uint64_t count_;
};

constinit Parameters<1> get_parameters{"get", 1, 1, {"index"}};
constinit Parameters<2> set_parameters{"set", 2, 2, {"index", "value"}};
constinit Parameters<2> fetch_add_parameters{"fetch_add", 2, 2, {"index", "n"}};
constinit Parameters<5> move_parameters{
    "_move_now", 5, 5, {"is_read", "local", "remote", "spans", "begin"}};

Elements& elements(PyObject* self) {
    auto* const found = value_pointer<Elements>(self);
    if (found == nullptr) throw py::type_error("the object was never initialised");
    return *found;
}

PyObject* get(PyObject* self, const Arguments<1>& arguments) {
    const Elements& own = elements(self);
    if (!own.move(OperationType::read, own.offset(arguments[0]))) Py_RETURN_NONE;
    return PySequence_GetItem(own.item().ptr(), 0);
}

PyObject* set(PyObject* self, const Arguments<2>& arguments) {
    const Elements& own = elements(self);
    const std::uint64_t offset = own.offset(arguments[0]);
    // What a conversion of the program's writes here meanwhile is overwritten by its last act.
    if (PySequence_SetItem(own.item().ptr(), 0, arguments[1]) != 0) return nullptr;
    return PyBool_FromLong(own.move(OperationType::write, offset) ? 1 : 0);
}

PyObject* fetch_add(PyObject* self, const Arguments<2>& arguments) {
    const Elements& own = elements(self);
    core::WorkRequest request;
    request.type = OperationType::fetch_add;
    request.operand = to_word64(arguments[1], "n");
    const auto found = own.fetch(request, own.offset(arguments[0]));
    if (!found) Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(*found);
}

PyObject* move_now(PyObject* self, const Arguments<5>& arguments) {
    const auto& [is_read, local, remote, spans, begin] = arguments;
    const auto& handle = usable<QueuePair>(self);
    const bool reads = PyObject_IsTrue(is_read) == 1;
    const Export own("_move_now", local, reads);
    core::WorkRequest place;
    set_remote(place, remote);
    const core::Span whole{0, 0, own.size()};
    std::optional<Export> rows;
    std::span all(&whole, whole.length <= place.remote_size ? 1 : 0);
    if (spans != Py_None) {
        rows.emplace("_move_now", spans, false);
        all = {reinterpret_cast<const core::Span*>(rows->data()),
               rows->size() / sizeof(core::Span)};
    }
    const std::span left = all.subspan(to_unsigned32(begin, "begin"));
    const std::size_t done =
        handle.get().move_now(reads ? OperationType::read : OperationType::write, own.data(),
                              place.remote_address, place.remote_token, left);
    return PyLong_FromSize_t(done);
}

}  // namespace

void bind_elements(py::module_& module) {
    py::class_<Elements> cls(module, "_Elements", py::is_final());
    cls.def(py::init<const py::object&, const py::object&, const py::object&, std::uint64_t>(),
            py::arg("qp"), py::arg("item"), py::arg("remote"), py::arg("count"));
    attach<get, get_parameters>(cls);
    attach<set, set_parameters>(cls);
    attach<fetch_add, fetch_add_parameters>(cls);
}

void attach_hot_move_calls(const py::handle& cls) { attach<move_now, move_parameters>(cls); }

}  // namespace ndv::bindings

// SPDX-License-Identifier: Apache-2.0
// Local and remote memory of requests.
#include "bindings/hot/segments.hpp"

#include <string>

#include "bindings/memory.hpp"
#include "bindings/python/arguments.hpp"
#include "bindings/python/errors.hpp"

namespace ndv::bindings {
namespace {

// Borrowed types and names that live as long as the process.
struct Known {
    PyTypeObject* segment = nullptr;
    PyTypeObject* memory_region = nullptr;
    PyObject* address = nullptr;
    PyObject* token = nullptr;
    PyObject* nbytes = nullptr;
    PyObject* access = nullptr;
};
constinit Known known;

[[noreturn]] void raise_not_initialised() {
    throw py::type_error("the object was never initialised");
}

[[noreturn]] void raise_no_remote(PyObject* object) {
    throw py::type_error(
        std::string("remote must be a RemoteBuffer or a pair (address, token), not ") +
        Py_TYPE(object)->tp_name);
}

// Null when the object has no such attribute.
py::object optional_attribute(PyObject* object, PyObject* name) {
    PyObject* const value = PyObject_GetAttr(object, name);
    if (value == nullptr) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError) == 0) throw py::error_already_set();
        PyErr_Clear();
    }
    return py::reinterpret_steal<py::object>(value);
}

}  // namespace

void prepare_segments(PyObject* segment_type, PyObject* memory_region_type) {
    const auto intern = [](const char* name) {
        PyObject* const interned = PyUnicode_InternFromString(name);
        if (interned == nullptr) throw py::error_already_set();
        return interned;
    };
    known = {reinterpret_cast<PyTypeObject*>(segment_type),
             reinterpret_cast<PyTypeObject*>(memory_region_type),
             intern("address"),
             intern("token"),
             intern("nbytes"),
             intern("access")};
}

void SegmentList::add(const core::Segment& segment) {
    if (rest_.empty() && count_ < first_.size()) {
        first_[count_++] = segment;
        return;
    }
    if (rest_.empty()) rest_.assign(first_.begin(), first_.end());
    rest_.push_back(segment);
}

void SegmentList::add_buffer(PyObject* object) {
    const bool is_written =
        type_ != core::OperationType::send && type_ != core::OperationType::write;
    // What keeps other memory than that of inline data is the registration that it lies in.
    Export short_lived;
    Export& exported = !is_inline_                             ? short_lived
                       : export_count_ < first_exports_.size() ? first_exports_[export_count_++]
                                                               : more_exports_.emplace_back();
    exported.take("segments", object, is_written);
    const auto address = reinterpret_cast<std::uint64_t>(exported.data());
    const std::size_t length = exported.size();
    if (length == 0) return;  // an empty slice lies nowhere and moves nothing
    // The domain is asked for again: an exporter written in Python may have closed the poster.
    add(is_inline_ ? core::Segment{address, length, 0}
                   : value_or_raise(find_(poster_, type_, address, length)));
}

bool SegmentList::add_one(PyObject* object) {
    if (Py_TYPE(object) == known.segment) {
        const auto* const segment = value_pointer<core::Segment>(object);
        if (segment == nullptr) raise_not_initialised();
        if (is_inline_ && segment->token == 0 && segment->length > 0) {
            raise(Status::access_violation,
                  "a segment of " + std::to_string(segment->length) + " bytes at " +
                      std::to_string(segment->address) + " has no token",
                  "pass the buffer itself, which Flag.INLINE does not need registered, or a "
                  "segment of a memory region");
        }
        add(*segment);
    } else if (Py_TYPE(object) == known.memory_region) {
        const auto* const region = value_pointer<MemoryRegion>(object);
        if (region == nullptr) raise_not_initialised();
        add(region->whole());
    } else if (PyObject_CheckBuffer(object) != 0) {
        add_buffer(object);
    } else {
        return false;
    }
    return true;
}

void SegmentList::add_all(PyObject* segments) {
    if (PyTuple_CheckExact(segments) == 0 && PyList_CheckExact(segments) == 0) {
        if (add_one(segments)) return;
        if (PySequence_Check(segments) == 0) {
            throw py::type_error(std::string("segments must be a Segment, a MemoryRegion, a "
                                             "buffer or a sequence of those, not ") +
                                 Py_TYPE(segments)->tp_name);
        }
    }
    const auto fast =
        py::reinterpret_steal<py::object>(PySequence_Fast(segments, "segments must be a sequence"));
    if (!fast) throw py::error_already_set();
    // Exporting a buffer may run Python code that changes a list: ask for its size every time.
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(fast.ptr()); ++i) {
        const auto item =
            py::reinterpret_borrow<py::object>(PySequence_Fast_GET_ITEM(fast.ptr(), i));
        if (add_one(item.ptr())) continue;
        throw py::type_error(std::string("segment ") + std::to_string(i) +
                             " must be a Segment, a MemoryRegion or a buffer, not " +
                             Py_TYPE(item.ptr())->tp_name);
    }
}

void set_remote(core::WorkRequest& request, PyObject* remote) {
    if (PyTuple_CheckExact(remote) != 0) {
        if (PyTuple_GET_SIZE(remote) != 2) raise_no_remote(remote);
        request.remote_address = to_unsigned64(PyTuple_GET_ITEM(remote, 0), "remote address");
        request.remote_token = to_unsigned32(PyTuple_GET_ITEM(remote, 1), "remote token");
        return;
    }
    const py::object address = optional_attribute(remote, known.address);
    const py::object token = address ? optional_attribute(remote, known.token) : py::object();
    if (!token) raise_no_remote(remote);
    request.remote_address = to_unsigned64(address.ptr(), "remote address");
    request.remote_token = to_unsigned32(token.ptr(), "remote token");
    if (const py::object nbytes = optional_attribute(remote, known.nbytes)) {
        request.remote_size = to_unsigned64(nbytes.ptr(), "remote nbytes");
    }
    if (const py::object access = optional_attribute(remote, known.access)) {
        request.remote_rights = to_unsigned32(access.ptr(), "remote access");
    }
}

}  // namespace ndv::bindings

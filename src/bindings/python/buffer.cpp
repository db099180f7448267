// SPDX-License-Identifier: Apache-2.0
// Exports and their diagnosis.
#include "bindings/python/buffer.hpp"

#include <pybind11/numpy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "bindings/enums.hpp"
#include "bindings/python/deferred.hpp"
#include "bindings/python/errors.hpp"

namespace ndv::bindings {
namespace {

// To clear an instance of a Python class is to drop its attributes, and what is below it in
// ndarray, bytearray and array does nothing. Types that free their memory when they are cleared, as
// memoryview and ctypes do, must not be: a peer may be writing to it.
bool is_cleared_harmlessly(PyTypeObject* type) {
    const auto enum_member = py::reinterpret_steal<py::object>(status_member(Status::success));
    const inquiry clear_of_python_classes = Py_TYPE(enum_member.ptr())->tp_clear;
    while (type != nullptr && type->tp_clear == clear_of_python_classes) type = type->tp_base;
    return type == nullptr || type->tp_clear == nullptr;
}

class PythonBuffer final : public core::BufferHold, Deferred {
public:
    // `guards`: see resize_guards().
    PythonBuffer(Export&& exported, py::list guards)
        : BufferHold(exported.data(), exported.size(), exported.view().readonly == 0),
          guards_(std::move(guards)),
          export_(std::move(exported)) {
        PyObject* const object = export_.view().obj;
        if (object != nullptr && is_cleared_harmlessly(Py_TYPE(object))) {
            exporter_->object = object;
        }
    }

    [[nodiscard]] std::shared_ptr<const Exporter> exporter() const { return exporter_; }

private:
    friend std::default_delete<PythonBuffer>;
    ~PythonBuffer() override = default;
    void give_back() noexcept override { defer(*this); }
    void run() noexcept override {
        const std::unique_ptr<PythonBuffer> self(this);
        exporter_->object = nullptr;
    }

    const py::list guards_;  // after the export, which their arrays may be the last to need
    const Export export_;
    const std::shared_ptr<Exporter> exporter_ = std::make_shared<Exporter>();
};

std::string type_name(const py::handle& object) { return Py_TYPE(object.ptr())->tp_name; }

// Whether a struct format (PEP 3118; null: bytes) has a field of Python objects; names stand
// between colons.
bool format_has_objects(const char* format) {
    bool is_name = false;
    for (; format != nullptr && *format != '\0'; ++format) {
        if (*format == ':') is_name = !is_name;
        if (*format == 'O' && !is_name) return true;
    }
    return false;
}

// Registering pointers would let a peer forge Python objects.
bool holds_objects(const py::object& object) {
    if (py::hasattr(object, "dtype")) {
        return py::getattr(object.attr("dtype"), "hasobject", py::bool_(false)).cast<bool>();
    }
    Export exported;
    if (!exported.try_take(object.ptr(), PyBUF_FULL_RO)) {
        PyErr_Clear();  // it cannot say its format; the plain export says the rest
        return false;
    }
    return format_has_objects(exported.view().format);
}

// Whose memory `object` shows; null when it is its own, or unknown.
py::object base_of(const py::object& object) {
    if (PyMemoryView_Check(object.ptr()) != 0) return object.attr("obj");
    if (py::isinstance<py::array>(object)) return py::reinterpret_borrow<py::array>(object).base();
    return {};
}

// ndarray.resize(refcheck=False) moves the memory although it is exported, but refuses while weak
// references to the array exist. So hold one to every array that the memory is reached through.
// Other exporters refuse by themselves.
py::list resize_guards(py::object object) {
    py::list guards;
    for (; object && !object.is_none(); object = base_of(object)) {
        PyObject* const guard = PyWeakref_NewRef(object.ptr(), nullptr);
        if (guard == nullptr) PyErr_Clear();  // bytearray and others take none
        if (guard != nullptr) guards.append(py::reinterpret_steal<py::object>(guard));
    }
    return guards;
}

core::BufferHold* hold(Export exported, const py::object& object) {
    return std::make_unique<PythonBuffer>(std::move(exported), resize_guards(object)).release();
}

[[noreturn]] void raise_objects(const char* call, const py::handle& object) {
    raise_buffer_error(Status::invalid_parameter,
                       std::string(call) + ": the " + type_name(object) +
                           " holds Python objects, whose pointers mean nothing elsewhere",
                       "convert it to a numeric dtype first");
}

// Replaces the exporter's own exception by the reason and the remedy.
[[noreturn]] void raise_refused(const char* call, PyObject* object, bool is_written) {
    py::error_already_set cause;  // takes the exporter's exception
    if (!cause.matches(PyExc_BufferError) && !cause.matches(PyExc_ValueError)) throw cause;
    Export exported;
    // Without the format: NumPy has none for times, which may be registered all the same.
    if (!exported.try_take(object, PyBUF_INDIRECT)) {
        PyErr_Clear();
        raise_buffer_error(
            Status::invalid_parameter,
            std::string(call) + ": " + type_name(object) +
                " gives no plain buffer: " + py::str(cause.value()).cast<std::string>(),
            "pass a C-contiguous array of numbers");
    }
    if (PyBuffer_IsContiguous(&exported.view(), 'C') == 0) {
        raise_buffer_error(Status::invalid_parameter,
                           std::string(call) + ": the " + type_name(object) +
                               " is not C-contiguous, so its bytes are not one range of memory",
                           "copy it with np.ascontiguousarray(array), or name contiguous rows");
    }
    if (is_written && exported.view().readonly != 0) {
        raise_buffer_error(Status::access_denied,
                           std::string(call) + ": the " + type_name(object) +
                               " is read-only, and this would write into it",
                           "pass a writable array, such as array.copy(); to register memory that "
                           "is only read, ask for Access.LOCAL_READ or Access.REMOTE_READ");
    }
    throw cause;
}

}  // namespace

std::shared_ptr<const Exporter> exporter_of(const core::BufferHold& hold) {
    return static_cast<const PythonBuffer&>(hold).exporter();
}

namespace {

// Whether a byte can be read, asked of the kernel: to read a page that its file is too short for
// ends the process. The kernel reads the signal set before it refuses the impossible first
// argument. A null set is none to it, so the word is one near the byte that is never at 0.
bool is_readable(std::uint64_t address) {
    const std::uint64_t word = (address & ~std::uint64_t{7}) | 8;
    return ::syscall(SYS_rt_sigprocmask, -1, word, nullptr, 8) == 0 || errno != EFAULT;
}

core::BufferHold* export_whole(const char* call, const py::object& object, bool is_written) {
    const std::string name = call;
    if (PyObject_CheckBuffer(object.ptr()) == 0) {
        raise_buffer_error(Status::invalid_parameter,
                           name + ": an object of type " + type_name(object) + " has no buffer",
                           "register an array, bytearray, memoryview or mmap");
    }
    if (holds_objects(object)) {
        raise_objects(call, object);
    }
    Export exported(call, object.ptr(), is_written);
    if (exported.size() == 0) {
        raise_buffer_error(Status::invalid_buffer_size,
                           name + ": the " + type_name(object) + " is empty",
                           "zero-length requests need no registered memory");
    }
    if (!is_readable(reinterpret_cast<std::uint64_t>(exported.data() + exported.size() - 1))) {
        raise_buffer_error(Status::access_violation,
                           name + ": the end of the " + type_name(object) +
                               " has no memory behind it: its file is shorter than the mapping, "
                               "or its file system is full",
                           "give the file its size, and the file system its room, before mapping");
    }
    return hold(std::move(exported), object);
}

}  // namespace

bool is_readable(std::uint64_t address, std::uint64_t length) {
    constexpr std::uint64_t kPage = 4096;  // the smallest there is
    if (length == 0) return true;
    const std::uint64_t last = address + length - 1;
    if (last < address) return false;
    for (std::uint64_t at = address; at < last; at = (at | (kPage - 1)) + 1) {
        if (!is_readable(at)) return false;
    }
    return is_readable(last);
}

core::BufferHold* export_for_registration(const py::object& object, std::uint32_t rights) {
    // Both contain local write (NDK's REMOTE_WRITE is 5).
    const bool is_written = (rights & (core::access::kLocalWrite | core::access::kRemoteWriteBit |
                                       core::access::kRemoteAtomicBit)) != 0;
    return export_whole("register", object, is_written);
}

core::BufferHold* export_for_mapping(const py::object& object) {
    // A read-only buffer says so in its export; requests that would write to it are refused.
    return export_whole("build_lam", object, false);
}

core::BufferHold* export_for_transfer(const char* call, PyObject* object, bool is_written) {
    Export exported;
    exported.take_plain(call, object, is_written);
    return hold(std::move(exported), py::reinterpret_borrow<py::object>(object));
}

bool Export::try_take(PyObject* object, int flags) {
    if (PyObject_GetBuffer(object, &view_, flags) == 0) return true;
    view_.obj = nullptr;
    return false;
}

void Export::take(const char* call, PyObject* object, bool is_written) {
    if (!try_take(object, is_written ? PyBUF_WRITABLE : PyBUF_SIMPLE)) {
        raise_refused(call, object, is_written);
    }
}

void Export::take_plain(const char* call, PyObject* object, bool is_written) {
    // With the format, which says whether there are objects; some NumPy types have none.
    const int flags = PyBUF_ND | PyBUF_FORMAT | (is_written ? PyBUF_WRITABLE : 0);
    bool has_objects = false;
    if (try_take(object, flags)) {
        has_objects = format_has_objects(view_.format);
    } else {
        PyErr_Clear();
        take(call, object, is_written);
        has_objects = holds_objects(py::reinterpret_borrow<py::object>(object));
    }
    if (has_objects) raise_objects(call, object);
}

void check_dtype(PyObject* array, PyObject* dtype, const char* what) {
    static PyObject* const name = PyUnicode_InternFromString("dtype");
    if (name == nullptr) throw py::error_already_set();
    const auto found = py::reinterpret_steal<py::object>(PyObject_GetAttr(array, name));
    if (found.ptr() == dtype) return;
    if (found && PyObject_RichCompareBool(found.ptr(), dtype, Py_EQ) == 1) return;
    PyErr_Clear();
    throw py::type_error(what);
}

}  // namespace ndv::bindings

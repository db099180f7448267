// SPDX-License-Identifier: Apache-2.0
// QueuePair.fast_register, bind and invalidate: METH_FASTCALL, as all that is posted.
#include <pybind11/pybind11.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "bindings/hot/method.hpp"
#include "bindings/mapping.hpp"
#include "bindings/memory.hpp"
#include "bindings/module.hpp"
#include "bindings/python/buffer.hpp"

namespace ndv::bindings {
namespace {

constinit Parameters<7> fast_register_parameters{
    "fast_register",
    2,
    2,
    {"region", "pages", "first_byte_offset", "length", "base_address", "context", "flags"}};
constinit Parameters<6> bind_parameters{
    "bind", 4, 2, {"window", "region", "address", "nbytes", "context", "flags"}};
constinit Parameters<3> invalidate_parameters{"invalidate", 1, 1, {"region", "context", "flags"}};

// Not by isinstance, which believes what an object says of its class.
template <typename Value>
bool is_a(PyObject* object) {
    return PyObject_TypeCheck(object,
                              reinterpret_cast<PyTypeObject*>(py::type::of<Value>().ptr())) != 0;
}

// The handle in `object` when it is of the class; a TypeError otherwise.
template <typename Value>
Value& handle_of(PyObject* object, const char* parameter) {
    if (!is_a<Value>(object)) {
        throw py::type_error(std::string(parameter) + " must be a " +
                             py::type::of<Value>().attr("__name__").template cast<std::string>() +
                             ", not " + Py_TYPE(object)->tp_name);
    }
    return usable<Value>(object);
}

// The `pages` argument: a mapping, an array of 64-bit integers, or a sequence of integers.
class Pages {
public:
    explicit Pages(PyObject* object) {
        if (is_a<LogicalAddressMapping>(object)) {
            mapping_ = usable<LogicalAddressMapping>(object).share();
            pages_ = mapping_->pages();
        } else if (!take_buffer(object)) {
            take_sequence(object);
        }
    }
    Pages(const Pages&) = delete;
    Pages& operator=(const Pages&) = delete;

    [[nodiscard]] std::span<const std::uint64_t> get() const { return pages_; }
    // Null: pages by their addresses.
    [[nodiscard]] const core::LogicalAddressMapping* mapping() const { return mapping_.get(); }

private:
    // Integers as this machine has them are read in place; all others one by one.
    [[nodiscard]] bool take_buffer(PyObject* object) {
        if (!export_.try_take(object, PyBUF_ND | PyBUF_FORMAT)) {
            PyErr_Clear();
            return false;
        }
        const Py_buffer& view = export_.view();
        constexpr const char* kPrefixes =
            std::endian::native == std::endian::little ? "@=<" : "@=>!";
        std::string_view format = view.format == nullptr ? "B" : view.format;
        format.remove_prefix(std::min(format.find_first_not_of(kPrefixes), format.size()));
        if (view.itemsize != 8 || view.ndim != 1 ||
            (format != "Q" && format != "q" && format != "L" && format != "l")) {
            return false;
        }
        pages_ = {static_cast<const std::uint64_t*>(view.buf), export_.size() / 8};
        return true;
    }
    void take_sequence(PyObject* object) {
        const auto fast = py::reinterpret_steal<py::object>(PySequence_Fast(
            object, "pages must be a LogicalAddressMapping, an array of uint64 or a sequence"));
        if (!fast) throw py::error_already_set();
        for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(fast.ptr()); ++i) {
            // Looking at an item may change a list.
            const auto item =
                py::reinterpret_borrow<py::object>(PySequence_Fast_GET_ITEM(fast.ptr(), i));
            const auto number = py::reinterpret_steal<py::object>(PyNumber_Index(item.ptr()));
            if (!number) throw py::error_already_set();
            own_.push_back(to_unsigned64(number.ptr(), "page"));
        }
        pages_ = own_;
    }

    std::shared_ptr<core::LogicalAddressMapping> mapping_;
    Export export_;
    std::vector<std::uint64_t> own_;
    std::span<const std::uint64_t> pages_;
};

std::uint64_t given_or(PyObject* given, const char* name, std::uint64_t otherwise) {
    return given == nullptr || given == Py_None ? otherwise : to_unsigned64(given, name);
}

// By which both sides name the first byte, unless it is said: where this process sees it.
std::uint64_t base_address(QueuePair& handle, const core::FastRegisterRequest& request) {
    if (request.pages.empty()) return request.first_byte_offset;  // refused all the same
    const auto page = handle.adapter()->get()->address_of(request.pages.front());
    return value_or_raise(page) + request.first_byte_offset;
}

// The end of the three calls. Arguments that are Python objects may have closed the queue pair.
template <auto kPost, typename Request>
PyObject* post_mapped(QueuePair& handle, Request& request, PyObject* flags, PyObject* context) {
    if (flags != nullptr) request.flags = to_unsigned32(flags, "flags");
    static_cast<void>(handle.get());
    return post<kPost>(handle, request, context);
}

PyObject* fast_register(PyObject* self, const Arguments<7>& arguments) {
    const auto& [region, given, offset, length, base, context, flags] = arguments;
    auto& handle = usable<QueuePair>(self);
    const Pages pages(given);
    core::FastRegisterRequest request;
    const core::LogicalAddressMapping* const mapping = pages.mapping();
    request.pages = pages.get();
    request.first_byte_offset = given_or(offset, "first_byte_offset",
                                         mapping != nullptr ? mapping->first_byte_offset() : 0);
    const std::uint64_t room = request.pages.size() * core::page_size();
    const std::uint64_t rest = mapping != nullptr ? mapping->size() : room;
    // A mapping's own offset is outside its size; one of a list of pages is inside.
    request.length = given_or(length, "length",
                              mapping != nullptr                 ? rest
                              : request.first_byte_offset < rest ? rest - request.first_byte_offset
                                                                 : 0);
    request.base_address = base == nullptr || base == Py_None ? base_address(handle, request)
                                                              : to_unsigned64(base, "base_address");
    const auto native = handle_of<FastRegisterMemoryRegion>(region, "region").share();
    request.region = native.get();
    return post_mapped<&core::QueuePair::fast_register>(handle, request, flags, context);
}

PyObject* bind(PyObject* self, const Arguments<6>& arguments) {
    const auto& [window, region, address, nbytes, context, flags] = arguments;
    auto& handle = usable<QueuePair>(self);
    core::BindRequest request;
    const auto& base = handle_of<MemoryRegion>(region, "region");
    request.region = base.share();
    const std::uint64_t begin = request.region->address();
    const std::uint64_t size = request.region->size();
    request.address = given_or(address, "address", begin);
    const std::uint64_t skipped = request.address - begin;
    request.length = given_or(nbytes, "nbytes", skipped < size ? size - skipped : 1);
    const auto native = handle_of<MemoryWindow>(window, "window").share();
    request.window = native.get();
    return post_mapped<&core::QueuePair::bind>(handle, request, flags, context);
}

PyObject* invalidate(PyObject* self, const Arguments<3>& arguments) {
    const auto& [object, context, flags] = arguments;
    auto& handle = usable<QueuePair>(self);
    core::InvalidateRequest request;
    std::shared_ptr<core::FastRegisterMemoryRegion> region;
    std::shared_ptr<core::MemoryWindow> window;
    if (is_a<MemoryWindow>(object)) {
        window = usable<MemoryWindow>(object).share();
    } else if (is_a<MemoryRegion>(object)) {
        throw py::type_error(
            "invalidate takes what fast_register and bind make; use MemoryRegion.deregister()");
    } else {
        region = handle_of<FastRegisterMemoryRegion>(object, "region").share();
    }
    request.region = region.get();
    request.window = window.get();
    return post_mapped<&core::QueuePair::invalidate>(handle, request, flags, context);
}

}  // namespace

void attach_hot_mapping_calls(const py::handle& cls) {
    attach<fast_register, fast_register_parameters>(cls);
    attach<bind, bind_parameters>(cls);
    attach<invalidate, invalidate_parameters>(cls);
}

}  // namespace ndv::bindings

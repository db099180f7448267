// SPDX-License-Identifier: Apache-2.0
// The `segments` and `remote` arguments of requests, turned into what core takes. Everything here
// raises py::error_already_set.
#pragma once

#include <pybind11/pybind11.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "bindings/python/buffer.hpp"
#include "bindings/queue_pair.hpp"
#include "core/types.hpp"

namespace ndv::bindings {

// Interns names and remembers the exact types; once, when the module is made.
void prepare_segments(PyObject* segment_type, PyObject* memory_region_type);

// Buffers that stay exported while this lives.
class Exports {
public:
    Exports() = default;
    Exports(const Exports&) = delete;
    Exports& operator=(const Exports&) = delete;
    ~Exports();
    Extent add(PyObject* object, bool is_written);

private:
    std::array<Py_buffer, 2> first_;  // left uninitialised, and enough for nearly all
    std::size_t count_ = 0;           // in first_
    std::vector<Py_buffer> rest_;
};

// Lives until the request is posted: what inline data is copied from stays exported for so long,
// because a sequence may make its items when it is asked for them.
class SegmentList {
public:
    // `poster`: the handle of a queue pair or of a shared receive queue. `rights`: what a buffer
    // that is named by itself must be registered with; inline data needs no registration.
    template <typename Poster>
    SegmentList(const Poster& poster, std::uint32_t rights, bool is_inline)
        : poster_(&poster),
          domain_([](const void* handle) -> core::ProtectionDomain& {
              return *static_cast<const Poster*>(handle)->get().pd();
          }),
          rights_(rights),
          is_inline_(is_inline) {}

    // A Segment, a MemoryRegion, a buffer, or a sequence of those. No limit on their number:
    // core knows it.
    void add_all(PyObject* segments);

    [[nodiscard]] std::span<const core::Segment> get() const {
        return rest_.empty() ? std::span(first_.data(), count_) : std::span(rest_);
    }
    [[nodiscard]] std::uint64_t total() const { return total_; }

private:
    // False: it is none of the three.
    [[nodiscard]] bool add_one(PyObject* object);
    void add(const core::Segment& segment);
    void add_buffer(PyObject* object);

    const void* const poster_;
    core::ProtectionDomain& (*const domain_)(const void* poster);  // raises when it is closed
    const std::uint32_t rights_;
    const bool is_inline_;
    Exports exports_;  // of inline data
    std::uint64_t total_ = 0;
    std::size_t count_ = 0;
    std::array<core::Segment, 8> first_;  // enough for nearly all
    std::vector<core::Segment> rest_;     // all of them, once there are more
};

// A RemoteBuffer, or whatever has its address, token and nbytes, or a pair (address, token).
// Raises ValueError when `total` local bytes do not fit, PermissionError when its rights do not
// allow the request.
void set_remote(core::WorkRequest& request, PyObject* remote, std::uint64_t total);

}  // namespace ndv::bindings

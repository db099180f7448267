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

// Lives until the request is posted: what inline data is copied from stays exported for so long,
// because a sequence may make its items when it is asked for them.
class SegmentList {
public:
    // `poster`: the handle of a queue pair or of a shared receive queue. Inline data needs no
    // registration.
    template <typename Poster>
    SegmentList(const Poster& poster, core::OperationType type, bool is_inline)
        : poster_(&poster), find_(find<Poster>), type_(type), is_inline_(is_inline) {}

    // A Segment, a MemoryRegion, a buffer, or a sequence of those. No limit on their number:
    // core knows it.
    void add_all(PyObject* segments);

    [[nodiscard]] std::span<const core::Segment> get() const {
        return rest_.empty() ? std::span(first_.data(), count_) : std::span(rest_);
    }

private:
    // The registered memory of the poster's domain that contains a buffer; raises when it is
    // closed.
    using Find = Expected<core::Segment>(const void* poster, core::OperationType type,
                                         std::uint64_t address, std::uint64_t length);
    template <typename Poster>
    static Expected<core::Segment> find(const void* poster, core::OperationType type,
                                        std::uint64_t address, std::uint64_t length) {
        auto& native = static_cast<const Poster*>(poster)->get();
        std::uint32_t rights = core::access::kLocalWrite;
        if constexpr (requires { native.local_rights(type); }) {
            if (type != core::OperationType::receive) rights = native.local_rights(type);
        }
        return native.pd()->find(address, length, rights);
    }

    // False: it is none of the three.
    [[nodiscard]] bool add_one(PyObject* object);
    void add(const core::Segment& segment);
    void add_buffer(PyObject* object);

    const void* const poster_;
    Find* const find_;
    const core::OperationType type_;
    const bool is_inline_;
    std::size_t export_count_ = 0;         // in first_exports_
    std::array<Export, 2> first_exports_;  // of inline data; enough for nearly all
    std::vector<Export> more_exports_;
    std::size_t count_ = 0;
    std::array<core::Segment, 8> first_;  // enough for nearly all
    std::vector<core::Segment> rest_;     // all of them, once there are more
};

// A RemoteBuffer, or what has its address, token, nbytes and access, or a pair (address, token).
void set_remote(core::WorkRequest& request, PyObject* remote);

}  // namespace ndv::bindings

// SPDX-License-Identifier: Apache-2.0
// QueuePair.post_many: thousands of requests by one call, out of an array of request_dtype. No
// Python object and no allocation per request.
#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "bindings/hot/method.hpp"
#include "bindings/module.hpp"
#include "bindings/python/buffer.hpp"
#include "bindings/result.hpp"

namespace ndv::bindings {
namespace {

using core::OperationType;

// X(type, name): one row of request_dtype, without holes.
#define NDV_REQUEST_ROW_LIST(X)     \
    X(std::uint32_t, type)          \
    X(std::uint32_t, flags)         \
    X(std::uint64_t, context)       \
    X(std::uint64_t, local_address) \
    X(std::uint64_t, local_length)  \
    X(std::uint32_t, local_token)   \
    X(std::uint32_t, remote_token)  \
    X(std::uint64_t, remote_address)

struct RequestRow {
#define NDV_X(type, name) type name;
    NDV_REQUEST_ROW_LIST(NDV_X)
#undef NDV_X
};

constexpr Column kColumns[] = {
#define NDV_X(type, name) {#name, sizeof(type), offsetof(RequestRow, name)},
    NDV_REQUEST_ROW_LIST(NDV_X)
#undef NDV_X
};

constinit PyObject* row_dtype = nullptr;
constinit Parameters<1> post_many_parameters{"post_many", 1, 1, {"requests"}};

// What one row asks for; the segment must live as long as the request.
core::WorkRequest request_of(const RequestRow& row, const core::Segment& segment) {
    core::WorkRequest request;
    request.type = static_cast<OperationType>(row.type);
    request.flags = row.flags;
    if (segment.length > 0) request.segments = {&segment, 1};
    request.remote_address = row.remote_address;
    request.remote_token = row.remote_token;
    request.context = row.context;
    return request;
}

core::ReceiveRequest receive_of(const RequestRow& row, const core::Segment& segment) {
    core::ReceiveRequest request;
    if (segment.length > 0) request.segments = {&segment, 1};
    request.context = row.context;
    return request;
}

// A row has no room for the operands of an atomic.
bool is_known(const RequestRow& row) {
    const auto type = static_cast<OperationType>(row.type);
    if (type == OperationType::receive) return row.flags == 0;
    return core::row_of(type).flags != 0 && !core::is_atomic(type);
}

// Of one call: the kernel is asked once for rows that follow each other in a page.
class OwnMemory {
public:
    [[nodiscard]] bool is_readable(std::uint64_t address, std::uint64_t length) {
        constexpr std::uint64_t kPage = 4096;  // the smallest there is
        const std::uint64_t page = address / kPage;
        if (length == 0 || (page == known_ && length <= kPage - address % kPage)) return true;
        if (!bindings::is_readable(address, length)) return false;
        known_ = page;
        return true;
    }

private:
    std::uint64_t known_ = ~std::uint64_t{0};
};

Status post_row(core::QueuePair& qp, const RequestRow& row, OwnMemory& own) {
    if (!is_known(row)) return Status::invalid_parameter;
    const core::Segment segment{row.local_address, row.local_length, row.local_token};
    if (row.type == static_cast<std::uint32_t>(OperationType::receive)) {
        return qp.post_receive(receive_of(row, segment));
    }
    // INLINE without a token is memory of the program's own, for whose address nothing vouches.
    if ((row.flags & core::flag::kInline) != 0 && row.local_token == 0 &&
        row.local_length <= qp.limits().inline_size &&
        !own.is_readable(row.local_address, row.local_length)) {
        return Status::access_violation;
    }
    return qp.post(request_of(row, segment));
}

Error explain_row(const core::QueuePair& qp, const RequestRow& row, Status status) {
    const core::Segment segment{row.local_address, row.local_length, row.local_token};
    if (!is_known(row)) {
        return {status,
                "post_many: type " + std::to_string(row.type) + " with flags " +
                    std::to_string(row.flags) + " is not one that a row can ask for",
                "post_many rows take SEND, READ, WRITE, or RECEIVE without flags", 0};
    }
    return row.type == static_cast<std::uint32_t>(OperationType::receive)
               ? qp.explain(status, receive_of(row, segment))
               : qp.explain(status, request_of(row, segment));
}

// The exception of the row, with how many were posted before it.
[[noreturn]] void raise_row(Error error, std::size_t posted) {
    error.what = "row " + std::to_string(posted) + ": " + error.what;
    try {
        raise(error);
    } catch (py::error_already_set& raised) {
        raised.value().attr("posted") = posted;
        throw;
    }
}

PyObject* post_many(PyObject* self, const Arguments<1>& arguments) {
    const auto& [given] = arguments;
    auto& handle = usable<QueuePair>(self);
    const Rows<const RequestRow> rows("post_many", given, row_dtype,
                                      "requests must be an array of ndverbs.request_dtype", false);
    // Looking at the argument may have run code that closed the queue pair.
    core::QueuePair& native = handle.get();
    Status status = Status::success;
    std::size_t posted = 0;
    OwnMemory own;
    {
        const core::QueuePair::Batch batch(native);
        for (; posted < rows.size(); ++posted) {
            status = post_row(native, rows[posted], own);
            if (status != Status::success) break;
        }
    }
    const bool has_failed = status != Status::success && status != Status::no_more_entries;
    Error error;
    if (has_failed) error = explain_row(native, rows[posted], status);
    // One step for all of them, unless the last one may wait as well.
    const bool is_deferred = status == Status::success && posted > 0 &&
                             (rows[posted - 1].flags & core::flag::kDefer) != 0;
    if (!is_deferred && native.transmit(core::Budget::small)) transmit_large(handle);
    if (has_failed) raise_row(std::move(error), posted);
    return PyLong_FromSize_t(posted);
}

}  // namespace

void attach_hot_batch_calls(const py::handle& cls) { attach<post_many, post_many_parameters>(cls); }

void bind_batch(py::module_& module) {
    py::object dtype = dtype_of(kColumns, sizeof(RequestRow));
    module.attr("request_dtype") = dtype;
    row_dtype = dtype.release().ptr();
}

}  // namespace ndv::bindings

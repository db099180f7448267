// SPDX-License-Identifier: Apache-2.0
// The calls whose cost is the cost of an operation: send, receive, read, write and poll. They are
// METH_FASTCALL functions set on the pybind11 classes: the method descriptor checks the type of
// self, the handle is taken from the instance, and no dispatch of pybind11's happens.
#include <pybind11/pybind11.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <new>

#include "bindings/completion_queue.hpp"
#include "bindings/hot/method.hpp"
#include "bindings/hot/segments.hpp"
#include "bindings/module.hpp"
#include "bindings/python/arguments.hpp"
#include "bindings/python/buffer.hpp"
#include "bindings/python/contexts.hpp"
#include "bindings/python/errors.hpp"
#include "bindings/queue_pair.hpp"
#include "bindings/result.hpp"
#include "core/outstanding.hpp"

namespace ndv::bindings {
namespace {

using core::OperationType;

constinit Parameters<3> send_parameters{"send", 1, 0, {"segments", "context", "flags"}};
constinit Parameters<4> send_and_invalidate_parameters{
    "send_and_invalidate", 2, 2, {"segments", "remote_token", "context", "flags"}};
constinit Parameters<2> receive_parameters{"receive", 1, 0, {"segments", "context"}};
constinit Parameters<4> read_parameters{"read", 2, 2, {"segments", "remote", "context", "flags"}};
constinit Parameters<4> write_parameters{"write", 2, 2, {"segments", "remote", "context", "flags"}};
constinit Parameters<1> poll_parameters{"poll", 1, 0, {"limit"}};
constinit Parameters<1> poll_into_parameters{"poll_into", 1, 1, {"results"}};

}  // namespace

PyObject* post_request(PyObject* self, core::WorkRequest request, const Given& given) {
    if (given.flags != nullptr) request.flags = to_unsigned32(given.flags, "flags");
    auto& handle = usable<QueuePair>(self);
    SegmentList segments(handle, request.type, (request.flags & core::flag::kInline) != 0);
    if (given.segments != nullptr) segments.add_all(given.segments);
    request.segments = segments.get();
    if (given.remote != nullptr) set_remote(request, given.remote);
    // Arguments that are Python objects may have closed the queue pair.
    static_cast<void>(handle.get());
    return post<&core::QueuePair::post>(handle, request, given.context);
}

namespace {

PyObject* send(PyObject* self, const Arguments<3>& arguments) {
    const auto& [segments, context, flags] = arguments;
    return post_request(self, {}, {segments, nullptr, context, flags});
}

PyObject* send_and_invalidate(PyObject* self, const Arguments<4>& arguments) {
    const auto& [segments, token, context, flags] = arguments;
    core::WorkRequest request;
    request.invalidates = true;
    request.remote_token = to_unsigned32(token, "remote_token");
    return post_request(self, request, {segments, nullptr, context, flags});
}

PyObject* read(PyObject* self, const Arguments<4>& arguments) {
    const auto& [segments, remote, context, flags] = arguments;
    core::WorkRequest request;
    request.type = OperationType::read;
    return post_request(self, request, {segments, remote, context, flags});
}

PyObject* write(PyObject* self, const Arguments<4>& arguments) {
    const auto& [segments, remote, context, flags] = arguments;
    core::WorkRequest request;
    request.type = OperationType::write;
    return post_request(self, request, {segments, remote, context, flags});
}

PyObject* receive(PyObject* self, const Arguments<2>& arguments) {
    const auto& [given, context_object] = arguments;
    auto& handle = usable<QueuePair>(self);
    SegmentList segments(handle, OperationType::receive, false);
    if (given != nullptr) segments.add_all(given);
    core::QueuePair& native = handle.get();
    const Context context = handle.contexts().take(context_object);
    const core::ReceiveRequest request{segments.get(), context.is_object, context.value};
    const Status status = native.post_receive(request);
    if (status != Status::success) [[unlikely]] {
        const bool needs_large = !native.is_closed() && native.transmit(core::Budget::small);
        refuse(handle, status, request, context, needs_large);
    }
    Py_RETURN_NONE;
}

// Completions on their way out of the ring. Left uninitialised; on the stack, because building
// results may run Python code that polls again.
class Taken {
public:
    static constexpr std::size_t kMost = 64;

    // Takes up to `limit` from the ring. Without any, and with a step left that is too large to
    // take with the GIL, tries again without it.
    // Raises for a queue that is dead, unless there are `earlier` ones to be handed out.
    std::size_t take(CompletionQueue& handle, std::size_t limit, std::size_t earlier) {
        // Arguments and results are Python objects, which may have closed the queue.
        core::CompletionQueue& native = handle.get();
        if (handle.is_polled) return 0;  // by a thread that has given the GIL up
        limit = std::min(limit, kMost);
        bool needs_large = false;
        const std::size_t count = native.poll(data(), limit, core::Budget::small, needs_large);
        if (count == 0 && needs_large) [[unlikely]]
            return take_large(handle, limit);
        if (count == 0 && earlier == 0 && is_failure(native.status())) [[unlikely]] {
            raise(queue_error(native));
        }
        return count;
    }
    core::Completion* data() {
        return std::launder(reinterpret_cast<core::Completion*>(storage_.data()));
    }

private:
    std::size_t take_large(CompletionQueue& handle, std::size_t limit) {
        const std::shared_ptr<core::CompletionQueue> native = handle.peek();
        struct Polled {
            bool& is_polled;
            ~Polled() { is_polled = false; }
        };
        const Polled polled{handle.is_polled = true};
        const Released released;
        bool needs_large = false;
        return native->poll(data(), limit, core::Budget::large, needs_large);
    }

    alignas(core::Completion) std::array<std::byte, kMost * sizeof(core::Completion)> storage_;
};
static_assert(std::is_trivially_copyable_v<core::Completion>);

// Adds one Result per completion to `list`, which is made with the first of them. All of them are
// consumed, whatever happens.
void add_results(py::object& list, Taken& taken, std::size_t count) {
    // Made first: the list is never seen with places that are empty.
    std::array<PyObject*, Taken::kMost> made;
    bool has_failed = false;
    for (std::size_t i = 0; i < count; ++i) {
        made[i] = make_result(taken.data()[i]);
        has_failed = has_failed || made[i] == nullptr;
    }
    if (!list && !has_failed) {
        list = py::reinterpret_steal<py::object>(PyList_New(static_cast<Py_ssize_t>(count)));
        if (list) {
            for (std::size_t i = 0; i < count; ++i) {
                PyList_SET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i), made[i]);
            }
            return;
        }
        has_failed = true;
    }
    for (std::size_t i = 0; i < count; ++i) {
        has_failed = has_failed || PyList_Append(list.ptr(), made[i]) != 0;
        Py_XDECREF(made[i]);
    }
    if (has_failed) throw py::error_already_set();
}

PyObject* poll(PyObject* self, const Arguments<1>& arguments) {
    const auto& [given] = arguments;
    auto& handle = usable<CompletionQueue>(self);
    std::uint64_t limit = given == nullptr ? 32 : to_unsigned64(given, "limit");
    py::object results;
    do {
        Taken taken;
        const std::size_t taken_now =
            limit == 0 ? 0 : taken.take(handle, limit, results ? Taken::kMost : 0);
        add_results(results, taken, taken_now);
        limit -= taken_now;
        // A short count means that the ring was empty. The results above may have run code that
        // closed the queue.
        if (taken_now < Taken::kMost || !handle.is_usable()) break;
    } while (limit > 0);
    return results.release().ptr();
}

PyObject* poll_into(PyObject* self, const Arguments<1>& arguments) {
    const auto& [given] = arguments;
    auto& handle = usable<CompletionQueue>(self);
    const Rows<ResultRow> rows("poll_into", given, result_dtype(),
                               "results must be an array of ndverbs.result_dtype", true);
    std::size_t done = 0;
    while (done < rows.size()) {
        Taken taken;
        const std::size_t taken_now = taken.take(handle, rows.size() - done, done);
        for (std::size_t i = 0; i < taken_now; ++i) fill_row(taken.data()[i], rows[done + i]);
        core::end_requests({taken.data(), taken_now});
        done += taken_now;
        if (taken_now < Taken::kMost || !handle.is_usable()) break;
    }
    return PyLong_FromSize_t(done);
}

}  // namespace

void attach_hot_queue_pair_calls(const py::handle& cls) {
    attach<send, send_parameters>(cls);
    attach<send_and_invalidate, send_and_invalidate_parameters>(cls);
    attach<receive, receive_parameters>(cls);
    attach<read, read_parameters>(cls);
    attach<write, write_parameters>(cls);
}

void attach_hot_completion_queue_calls(const py::handle& cls) {
    attach<poll, poll_parameters>(cls);
    attach<poll_into, poll_into_parameters>(cls);
}

}  // namespace ndv::bindings

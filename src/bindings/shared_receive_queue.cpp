// SPDX-License-Identifier: Apache-2.0
// Creation of shared receive queues, posting to them, and their threshold.
#include "bindings/shared_receive_queue.hpp"

#include <string>

#include "bindings/completion_queue.hpp"
#include "bindings/enums.hpp"
#include "bindings/hot/method.hpp"
#include "bindings/hot/segments.hpp"
#include "bindings/memory.hpp"
#include "bindings/module.hpp"
#include "bindings/python/callbacks.hpp"
#include "bindings/python/collected.hpp"

namespace ndv::bindings {
namespace {

constinit Parameters<2> receive_parameters{"receive", 1, 0, {"segments", "context"}};

PyObject* receive(PyObject* self, const Arguments<2>& arguments) {
    const auto [given, context_object] = arguments;
    auto& handle = usable<SharedReceiveQueue>(self);
    SegmentList segments(handle, core::OperationType::receive, false);
    if (given != nullptr) segments.add_all(given);
    core::SharedReceiveQueue& native = handle.get();
    const Context context = handle.contexts().take_shared(context_object);
    const core::ReceiveRequest request{segments.get(), context.is_object, context.value};
    const Status status = native.receive(request);
    if (status != Status::success) [[unlikely]] {
        const Error error = native.explain(status, request);
        handle.contexts().forget(context);
        raise(error);
    }
    Py_RETURN_NONE;
}

std::unique_ptr<SharedReceiveQueue> create_srq(const ProtectionDomain& domain,
                                               const core::SharedReceiveQueueLimits& limits,
                                               const py::object& on_notify) {
    const std::shared_ptr<core::ProtectionDomain> native = domain.share();
    core::SharedReceiveQueue::OnNotify tell;
    std::weak_ptr<SharedObject> called;
    if (!on_notify.is_none()) {
        const auto function = SharedObject::function(on_notify, "on_notify");
        called = function;
        tell = queued(domain.adapter()->with_callbacks(), function, [](Status status) {
            return py::reinterpret_steal<py::object>(status_member(status));
        });
    }
    ContextsHold contexts{py::none()};
    auto made = std::make_unique<SharedReceiveQueue>(
        value_or_raise(without_gil(
            [&] { return native->create_srq(limits, contexts.get(), std::move(tell)); })),
        domain.adapter(), std::move(contexts));
    made->set_calls({called});
    return made;
}

}  // namespace

void bind_shared_receive_queue(py::module_& module, py::class_<ProtectionDomain>& domain) {
    py::class_<SharedReceiveQueue> cls(module, "SharedReceiveQueue", py::is_final(),
                                       collected<SharedReceiveQueue>());
    bind_handle(cls);
    bind_repr(cls, [](const SharedReceiveQueue& self) {
        return "depth " + std::to_string(self.get().depth());
    });
    using Native = core::SharedReceiveQueue;
    cls.def(
           "modify",
           [](const SharedReceiveQueue& self, std::uint32_t depth, std::uint32_t threshold) {
               const auto native = self.share();
               check_or_raise(without_gil([&] { return native->modify(depth, threshold); }));
               for (const auto& queue : native->fed()) warn_of_overrun(*queue);
           },
           py::kw_only(), py::arg("depth") = 0, py::arg("notify_threshold") = 0)
        .def_property_readonly("depth", native_call<SharedReceiveQueue>(&Native::depth))
        .def_property_readonly("max_sge", native_call<SharedReceiveQueue>(&Native::max_sge));
    attach<receive, receive_parameters>(cls);

    domain.def(
        "create_srq",
        [](const ProtectionDomain& self, std::uint32_t depth, std::uint32_t max_sge,
           std::uint32_t notify_threshold, const py::object& on_notify) {
            return create_srq(self, {depth, max_sge, notify_threshold}, on_notify);
        },
        py::arg("depth"), py::kw_only(), py::arg("max_sge"), py::arg("notify_threshold") = 0,
        py::arg("on_notify") = py::none());
}

}  // namespace ndv::bindings

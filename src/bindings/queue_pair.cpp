// SPDX-License-Identifier: Apache-2.0
// Creation of queue pairs, and what is not hot about them.
#include "bindings/queue_pair.hpp"

#include <string>

#include "bindings/completion_queue.hpp"
#include "bindings/enums.hpp"
#include "bindings/module.hpp"
#include "bindings/python/collected.hpp"
#include "bindings/python/errors.hpp"
#include "bindings/shared_receive_queue.hpp"

namespace ndv::bindings {
namespace {

const char* state_name(core::QueuePairState state) {
    switch (state) {
        case core::QueuePairState::idle:
            return "idle";
        case core::QueuePairState::connected:
            return "connected";
        case core::QueuePairState::error:
            return "error";
    }
    return "unknown";
}

std::unique_ptr<QueuePair> create_qp(const ProtectionDomain& domain, CompletionQueue& receive_cq,
                                     CompletionQueue& initiator_cq, const py::object& context,
                                     const core::QueuePairLimits& limits,
                                     const SharedReceiveQueue* srq = nullptr) {
    const std::shared_ptr<core::ProtectionDomain> native = domain.share();
    if (receive_cq.adapter() != domain.adapter() || initiator_cq.adapter() != domain.adapter()) {
        raise(Status::invalid_parameter,
              "create_qp: the completion queues belong to another adapter",
              "create them with the adapter that created the protection domain");
    }
    const std::shared_ptr<core::SharedReceiveQueue> shared =
        srq == nullptr ? nullptr : srq->share();
    ContextsHold contexts(context);
    auto made = value_or_raise(
        without_gil([&, receive = receive_cq.share(), initiator = initiator_cq.share()] {
            return native->create_qp(receive, initiator, shared, limits, contexts.get());
        }));
    receive_cq.will_give(contexts.seen());
    initiator_cq.will_give(contexts.seen());
    if (srq != nullptr) receive_cq.will_give(srq->seen());
    auto handle =
        std::make_unique<QueuePair>(std::move(made), domain.adapter(), std::move(contexts));
    for (const auto& queue : {handle->get().receive_cq(), handle->get().initiator_cq()}) {
        warn_of_overrun(*queue);
    }
    return handle;
}

}  // namespace

void bind_create_qp(py::class_<ProtectionDomain>& domain) {
    constexpr core::QueuePairLimits kDefault;
    domain.def(
        "create_qp",
        [](const ProtectionDomain& self, CompletionQueue& receive_cq, CompletionQueue& initiator_cq,
           const py::object& context, std::uint32_t receive_queue_depth,
           std::uint32_t initiator_queue_depth, std::uint32_t max_receive_sge,
           std::uint32_t max_initiator_sge, std::uint32_t inline_size) {
            return create_qp(self, receive_cq, initiator_cq, context,
                             {receive_queue_depth, initiator_queue_depth, max_receive_sge,
                              max_initiator_sge, inline_size});
        },
        py::arg("receive_cq"), py::arg("initiator_cq"), py::kw_only(),
        py::arg("context") = py::none(),
        py::arg("receive_queue_depth") = kDefault.receive_queue_depth,
        py::arg("initiator_queue_depth") = kDefault.initiator_queue_depth,
        py::arg("max_receive_sge") = kDefault.max_receive_sge,
        py::arg("max_initiator_sge") = kDefault.max_initiator_sge,
        py::arg("inline_size") = kDefault.inline_size);
    domain.def(
        "create_qp_with_srq",
        [](const ProtectionDomain& self, CompletionQueue& receive_cq, CompletionQueue& initiator_cq,
           const SharedReceiveQueue& srq, const py::object& context,
           std::uint32_t initiator_queue_depth, std::uint32_t max_initiator_sge,
           std::uint32_t inline_size) {
            core::QueuePairLimits limits;
            limits.initiator_queue_depth = initiator_queue_depth;
            limits.max_initiator_sge = max_initiator_sge;
            limits.inline_size = inline_size;
            return create_qp(self, receive_cq, initiator_cq, context, limits, &srq);
        },
        py::arg("receive_cq"), py::arg("initiator_cq"), py::arg("srq"), py::kw_only(),
        py::arg("context") = py::none(),
        py::arg("initiator_queue_depth") = kDefault.initiator_queue_depth,
        py::arg("max_initiator_sge") = kDefault.max_initiator_sge,
        py::arg("inline_size") = kDefault.inline_size);
}

void bind_queue_pair(py::module_& module) {
    py::class_<QueuePair> cls(module, "QueuePair", py::is_final(), collected<QueuePair>());
    bind_handle(cls);
    bind_repr(cls, [](const QueuePair& self) {
        const core::QueuePair& native = self.get();
        return std::string(state_name(native.state())) + ", initiator depth " +
               std::to_string(native.limits().initiator_queue_depth) + ", receive depth " +
               std::to_string(native.limits().receive_queue_depth);
    });
    cls.def("flush",
            [](const QueuePair& self) {
                self.call_without_gil([](auto& native) { native.flush(); });
            })
        .def(
            "query_extension",
            [](const QueuePair& self, const std::string& name) {
                return call_names(
                    *value_or_raise(core::find_extension(self.get().pd()->info(), name)));
            },
            py::arg("name"))
        .def_property_readonly(
            "state", [](const QueuePair& self) { return state_name(self.get().state()); });
    attach_hot_queue_pair_calls(cls);
    attach_hot_mapping_calls(cls);
    attach_hot_batch_calls(cls);
    attach_hot_extension_calls(cls);
    attach_hot_at_once_calls(cls);
    attach_hot_move_calls(cls);
}

}  // namespace ndv::bindings

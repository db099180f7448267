// SPDX-License-Identifier: Apache-2.0
// The parts of ndverbs._native; module.cpp calls them in this order.
#pragma once

#include <pybind11/pybind11.h>

#include "bindings/mapping.hpp"
#include "bindings/memory.hpp"
#include "bindings/python/integers.hpp"

namespace ndv::bindings {

namespace py = pybind11;

void bind_enums(py::module_& module);
void bind_result(py::module_& module);
void bind_adapter(py::module_& module);
void bind_completion_queue(py::module_& module);
void bind_queue_pair(py::module_& module);
void bind_memory(py::module_& module);
void bind_operation(py::module_& module);
void bind_connector(py::module_& module);
void bind_listener(py::module_& module);
void bind_bench(py::module_& module);
void bind_lock(py::module_& module);

// What a protection domain makes that is filled by requests, and Adapter.build_lam.
void bind_mapping(py::module_& module, py::class_<ProtectionDomain>& domain);
// Adapter.alloc_array.
[[nodiscard]] py::object alloc_array(const std::shared_ptr<AdapterState>& adapter,
                                     const py::object& shape, const py::object& dtype);
[[nodiscard]] std::unique_ptr<LogicalAddressMapping> build_lam(
    const std::shared_ptr<AdapterState>& adapter, const py::object& array);

void bind_shared_receive_queue(py::module_& module, py::class_<ProtectionDomain>& domain);

// ProtectionDomain.create_qp, which needs queue pairs.
void bind_create_qp(py::class_<ProtectionDomain>& domain);

// The METH_FASTCALL methods, onto the finished classes.
void attach_hot_queue_pair_calls(const py::handle& cls);
void attach_hot_mapping_calls(const py::handle& cls);
void attach_hot_batch_calls(const py::handle& cls);
void attach_hot_extension_calls(const py::handle& cls);
void attach_hot_at_once_calls(const py::handle& cls);
void attach_hot_move_calls(const py::handle& cls);
// _Elements, which needs queue pairs.
void bind_elements(py::module_& module);
// request_dtype.
void bind_batch(py::module_& module);
void attach_hot_completion_queue_calls(const py::handle& cls);

// Sentences of base/log.hpp go to Python's logging from now on.
void begin_logging();
// Asks Python's logging whether DEBUG lines are wanted; when an adapter is opened.
void update_log_level();

// At the end: what calls of everything above say when their arguments are wrong.
void check_calls(py::module_& module);
// And the pages and signatures of python/ndverbs/_native.pyi, onto everything above.
void document(py::module_& module);

}  // namespace ndv::bindings

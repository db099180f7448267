// SPDX-License-Identifier: Apache-2.0
// The entry of ndverbs._native, and what the module does when the interpreter ends.
#include "bindings/module.hpp"

#include <pybind11/stl.h>

#include <map>
#include <string>

#include "base/live.hpp"
#include "base/shortage.hpp"
#include "bindings/checksum.hpp"
#include "bindings/faults.hpp"
#include "bindings/hot/segments.hpp"
#include "bindings/python/adapter_state.hpp"
#include "bindings/python/deferred.hpp"
#include "bindings/python/gil.hpp"
#include "bindings/stream.hpp"

namespace ndv::bindings {
namespace {

std::map<std::string, long> live_objects() {
    run_deferred();
    std::map<std::string, long> counts;
    for (std::size_t i = 0; i < base::kLiveKindNames.size(); ++i) {
        counts[base::kLiveKindNames[i]] = base::live_counts[i].load(std::memory_order_relaxed);
    }
    return counts;
}

// atexit: non-daemon threads have ended. Closing waits for lingering connections, so that the
// last message of a program arrives.
void at_exit() {
    survive_exit();
    begin_exit();
    close_all_adapters();
    run_deferred();
}

}  // namespace
}  // namespace ndv::bindings

PYBIND11_MODULE(native_of_main, module) {
    using namespace ndv::bindings;
    // What pybind11 would show: document() has better.
    py::options documentation;
    documentation.disable_function_signatures().disable_user_defined_docstrings();
    ndv::base::prepare_thread();
    prepare_exit();
    prepare_contexts(module);
    bind_enums(module);
    bind_result(module);
    bind_batch(module);
    bind_completion_queue(module);
    bind_queue_pair(module);
    bind_elements(module);
    bind_memory(module);
    prepare_segments(module.attr("Segment").ptr(), module.attr("MemoryRegion").ptr());
    bind_operation(module);
    bind_connector(module);
    bind_listener(module);
    bind_stream(module);
    bind_faults(module);
    bind_adapter(module);
    bind_bench(module);
    bind_checksum(module);
    bind_lock(module);
    module.def(
        "_call_and_report",
        [](const py::object& function, const py::object& argument) {
            call_and_report(function, argument);
        },
        py::arg("function"), py::arg("argument"));
    module.def("_is_callback_thread", CallbackLoop::is_any_on_this_thread);
    module.def("_live_objects", live_objects);
    check_calls(module);
    document(module);
    begin_logging();
    module.attr("__version__") = NDV_VERSION;
    py::module_::import("atexit").attr("register")(py::cpp_function(at_exit));
}

// Before pybind11 does anything, which waits for ever for the main interpreter's thread state.
extern "C" PYBIND11_EXPORT PyObject* PyInit__native();
PyObject* PyInit__native() {
    if (PyInterpreterState_Get() == PyInterpreterState_Main()) return PyInit_native_of_main();
    PyErr_SetString(PyExc_ImportError,
                    "ndverbs cannot be imported in a sub-interpreter: its callbacks and its exit "
                    "belong to the main one; import it there, or use another process");
    return nullptr;
}

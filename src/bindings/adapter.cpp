// SPDX-License-Identifier: Apache-2.0
// Adapter and AdapterInfo as Python sees them.
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/completion_queue.hpp"
#include "bindings/connection.hpp"
#include "bindings/enums.hpp"
#include "bindings/memory.hpp"
#include "bindings/module.hpp"
#include "bindings/python/adapter_state.hpp"
#include "bindings/python/arguments.hpp"
#include "bindings/python/errors.hpp"
#include "bindings/python/gil.hpp"
#include "bindings/stream.hpp"
#include "core/faults.hpp"
#include "providers/builtin/builtin.hpp"

namespace ndv::bindings {
namespace {

// The Python object Adapter; the state is shared with everything made from it.
struct Adapter {
    std::shared_ptr<AdapterState> state;

    [[nodiscard]] const std::shared_ptr<AdapterState>& adapter() const { return state; }
    [[nodiscard]] core::Adapter& get() const { return *state->get(); }
    [[nodiscard]] bool is_usable() const { return !is_closed() && !state->is_foreign(); }
    [[nodiscard]] bool is_closed() const { return state->is_closed(); }
    void close() { state->close(); }
};

// "auto" is none.
std::optional<bool> crc_of(const py::object& choice) {
    if (py::isinstance<py::str>(choice) && choice.cast<std::string>() == "auto") return {};
    // Also NumPy's, but nothing else that is true or false in some way: "off" would be true.
    py::detail::make_caster<bool> caster;
    if (caster.load(choice, false)) return static_cast<bool>(caster);
    raise(Status::invalid_parameter, "crc is " + py::repr(choice).cast<std::string>(),
          "give True, False or \"auto\"");
}

// A variable of the environment as Python sees it now; empty: there is none.
std::string variable(const char* name) {
    const py::object value = py::module_::import("os").attr("environ").attr("get")(name, "");
    return value.cast<std::string>();
}

// The argument and NDVERBS_DIRECT: the one that allows less.
core::Direct direct_of(const std::string& choice) {
    core::Direct direct = core::Direct::automatic;
    const std::string everywhere = variable("NDVERBS_DIRECT");
    for (const auto& [from, said] :
         {std::pair("direct", choice),
          std::pair("NDVERBS_DIRECT", everywhere.empty() ? "auto" : everywhere)}) {
        if (said == "auto") continue;
        if (said != "off" && said != "no-vm") {
            raise(Status::invalid_parameter, std::string(from) + " is '" + said + "'",
                  "give \"auto\", \"no-vm\" or \"off\"");
        }
        direct = std::min(direct, said == "off" ? core::Direct::off : core::Direct::no_vm);
    }
    return direct;
}

std::unique_ptr<Adapter> open(const std::string& name, double keepalive, const py::object& capture,
                              const py::object& crc, const std::string& direct,
                              const std::shared_ptr<core::Faults>& faults) {
    prepare_errors();
    update_log_level();
    core::AdapterOptions options;
    options.keepalive_s = keepalive;
    options.crc = crc_of(crc);
    options.direct = direct_of(direct);
    if (!capture.is_none()) options.capture_path = to_path(capture, "capture");
    // A path is bytes, whatever they mean as text.
    options.capture_folder = py::module_::import("os")
                                 .attr("environb")
                                 .attr("get")(py::bytes("NDVERBS_CAPTURE"), py::bytes())
                                 .cast<std::string>();
    auto native = value_or_raise(
        without_gil([&] { return providers::open_adapter(name, std::move(options), faults); }));
    return std::make_unique<Adapter>(Adapter{AdapterState::make(std::move(native))});
}

// NDVERBS_ADAPTER as Python sees it now, else the first provider of this build.
std::string default_adapter_name() {
    const std::string named = variable("NDVERBS_ADAPTER");
    return named.empty() ? providers::builtin().front()->name() : named;
}

std::vector<core::AdapterInfo> adapters() {
    const Released released;
    std::vector<core::AdapterInfo> all;
    for (const auto& provider : providers::builtin()) {
        for (core::AdapterInfo& info : provider->adapters()) all.push_back(std::move(info));
    }
    return all;
}

// (provider, check, whether it is good, what was found, remedy).
using FindingRow = std::tuple<std::string, std::string, bool, std::string, std::string>;

std::vector<FindingRow> diagnose() {
    const Released released;
    std::vector<FindingRow> all;
    for (auto& [provider, finding] : providers::diagnose()) {
        all.emplace_back(std::move(provider), std::move(finding.check), finding.is_good,
                         std::move(finding.what), std::move(finding.remedy));
    }
    return all;
}

// X(name): what an AdapterInfo has in Python as it is.
#define NDV_ADAPTER_INFO_LIST(X) \
    X(name)                      \
    X(provider)                  \
    X(vendor_id)                 \
    X(device_id)                 \
    X(max_registration_size)     \
    X(max_window_size)           \
    X(frmr_page_count)           \
    X(max_initiator_request_sge) \
    X(max_receive_request_sge)   \
    X(max_read_request_sge)      \
    X(max_transfer_length)       \
    X(max_inline_data_size)      \
    X(max_inbound_read_limit)    \
    X(max_outbound_read_limit)   \
    X(max_receive_queue_depth)   \
    X(max_initiator_queue_depth) \
    X(max_srq_depth)             \
    X(max_cq_depth)              \
    X(large_request_threshold)   \
    X(max_caller_data)           \
    X(max_callee_data)           \
    X(adapter_flags)             \
    X(rdma_technology)           \
    X(addresses)

// All of an AdapterInfo, for comparison and pickling.
template <typename Info>
auto fields(Info& info) {
#define NDV_X(name) info.name,
    return std::tie(NDV_ADAPTER_INFO_LIST(NDV_X) info.version_major, info.version_minor,
                    info.features, info.extensions);
#undef NDV_X
}

template <typename... T>
std::tuple<T...> values(const std::tuple<T&...>& references) {
    return references;
}

void bind_info(py::module_& module) {
    using core::AdapterInfo;
    py::class_<AdapterInfo> cls(module, "AdapterInfo", py::is_final());
#define NDV_X(name) cls.def_readonly(#name, &AdapterInfo::name);
    NDV_ADAPTER_INFO_LIST(NDV_X)
#undef NDV_X
    cls.def_property_readonly("version",
                              [](const AdapterInfo& self) {
                                  return std::pair(self.version_major, self.version_minor);
                              })
        .def_property_readonly(
            "features",
            [](const AdapterInfo& self) { return py::frozenset(py::cast(self.features)); })
        .def_property_readonly("extensions",
                               [](const AdapterInfo& self) {
                                   py::set names;
                                   for (const auto& entry : core::extension::kList) {
                                       if ((self.extensions & entry.bit) != 0) {
                                           names.add(entry.name);
                                       }
                                   }
                                   return py::frozenset(names);
                               })
        .def(
            "__eq__",
            [](const AdapterInfo& self, const AdapterInfo& other) {
                return fields(self) == fields(other);
            },
            py::is_operator())
        .def("__hash__", [](const AdapterInfo& self) { return py::hash(py::str(self.name)); })
        .def(py::pickle([](const AdapterInfo& self) { return py::make_tuple(fields(self)); },
                        [](const py::tuple& state) {
                            AdapterInfo made;
                            fields(made) = state[0].cast<decltype(values(fields(made)))>();
                            return made;
                        }))
        .def("__repr__", [](const AdapterInfo& self) {
            return "<AdapterInfo " + self.name + ": " + self.rdma_technology + " by " +
                   self.provider + ">";
        });
}

void bind_creation(py::class_<Adapter>& cls) {
    cls.def("create_pd",
            [](const Adapter& self) {
                return std::make_unique<ProtectionDomain>(
                    value_or_raise(without_gil(
                        [adapter = self.state->get()] { return adapter->create_pd(); })),
                    self.state);
            })
        .def(
            "create_cq",
            [](const Adapter& self, std::uint32_t depth,
               const std::optional<std::vector<std::uint32_t>>& affinity,
               const py::object& on_notify) {
                // NDK's affinity is a wish without promise; no provider of today grants it.
                static_cast<void>(affinity);
                return std::make_unique<CompletionQueue>(
                    value_or_raise(without_gil([adapter = self.state->get(), depth] {
                        return adapter->create_cq(depth);
                    })),
                    self.state, on_notify);
            },
            py::arg("depth"), py::kw_only(), py::arg("affinity") = py::none(),
            py::arg("on_notify") = py::none())
        .def("create_connector",
             [](const Adapter& self) {
                 return std::make_unique<Connector>(value_or_raise(self.get().create_connector()),
                                                    self.state);
             })
        .def(
            "create_listener",
            [](const Adapter& self, const py::object& on_connect) {
                return std::make_unique<Listener>(value_or_raise(self.get().create_listener()),
                                                  self.state, on_connect);
            },
            py::arg("on_connect") = py::none())
        .def(
            "alloc_array",
            [](const Adapter& self, const py::object& shape, const py::object& dtype) {
                return alloc_array(self.state, shape, dtype);
            },
            py::arg("shape"), py::arg("dtype"))
        .def(
            "create_shared_endpoint",
            [](const Adapter& self, const py::object& address) {
                const core::SocketAddress local = resolve_address(address);
                return std::make_unique<SharedEndpoint>(
                    value_or_raise(without_gil([adapter = self.state->get(), &local] {
                        return adapter->create_shared_endpoint(local);
                    })),
                    self.state);
            },
            py::arg("address"))
        .def(
            "query_extension",
            [](const Adapter& self, const std::string& name) {
                return call_names(*value_or_raise(core::find_extension(self.get().info(), name)));
            },
            py::arg("name"))
        .def(
            "build_lam",
            [](const Adapter& self, const py::object& array) {
                return build_lam(self.state, array);
            },
            py::arg("array"));
}

}  // namespace

void bind_adapter(py::module_& module) {
    bind_info(module);
    module.def("adapters", adapters);

    module.attr("_default_adapter") = providers::builtin().front()->name();
    module.def("_diagnose", diagnose);

    py::class_<Adapter> cls(module, "Adapter", py::is_final());
    bind_handle(cls);
    cls.def_static(
           "open",
           [](const std::optional<std::string>& name, double keepalive, const py::object& capture,
              const py::object& crc, const std::string& direct,
              const std::shared_ptr<core::Faults>& faults) {
               return open(name ? *name : default_adapter_name(), keepalive, capture, crc, direct,
                           faults);
           },
           py::arg("name") = py::none(), py::kw_only(), py::arg("keepalive") = 30.0,
           py::arg("capture") = py::none(), py::arg("crc") = "auto", py::arg("direct") = "auto",
           py::arg("faults") = py::none())
        .def("_allow_drop", [](const Adapter& self) { self.state->allow_drop(); })
        .def("_is_callback_thread",
             [](const Adapter& self) { return self.state->is_callback_thread(); })
        .def_property_readonly("info", native_call<Adapter>(&core::Adapter::info))
        .def("stats", [](const Adapter& self) {
            return without_gil([adapter = self.state->get()] { return adapter->stats(); });
        });
    bind_repr(cls, [](const Adapter& self) { return self.get().info().name; });
    bind_creation(cls);
    cls.def(
           "_create_stream",
           [](const Adapter& self, const stream::StreamOptions& options) {
               return create_stream(self.state, options);
           },
           py::arg("options"))
        .def(
            "_create_stream_listener",
            [](const Adapter& self, const py::object& address, const stream::StreamOptions& options,
               std::uint32_t backlog, const py::object& on_inspect, const py::object& on_abort,
               const py::object& on_ready) {
                return create_stream_listener(self.state, address, options, backlog, on_inspect,
                                              on_abort, on_ready);
            },
            py::arg("address"), py::arg("options"), py::arg("backlog"), py::kw_only(),
            py::arg("on_inspect") = py::none(), py::arg("on_abort") = py::none(),
            py::arg("on_ready") = py::none());
}

}  // namespace ndv::bindings

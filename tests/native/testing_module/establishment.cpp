// SPDX-License-Identifier: Apache-2.0
// The table of a connection's life as Python sees it, and a deadline that comes too early.
#include "core/establishment.hpp"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "module.hpp"
#include "providers/soft/adapter.hpp"

namespace ndv::testing {
namespace {

namespace py = pybind11;

#define NDV_TEXT(name) #name,
const std::vector<std::string> kStates = {NDV_CONNECTOR_STATE_LIST(NDV_TEXT)};
const std::vector<std::string> kInputs = {NDV_INPUT_LIST(NDV_TEXT)};
const std::vector<std::string> kEffects = {NDV_EFFECT_LIST(NDV_TEXT)};
#undef NDV_TEXT

std::size_t index_of(const std::vector<std::string>& names, const std::string& name) {
    for (std::size_t i = 0; i < names.size(); ++i) {
        if (names[i] == name) return i;
    }
    throw std::out_of_range(name);
}

std::optional<std::tuple<std::string, std::vector<std::string>, unsigned>> step(
    const std::string& state, const std::string& input) {
    const auto found = core::step(core::ConnectorState(index_of(kStates, state)),
                                  core::Input(index_of(kInputs, input)));
    if (!found) return std::nullopt;
    std::vector<std::string> effects;
    for (std::size_t i = 0; i < kEffects.size(); ++i) {
        if (found->effects.has(core::Effect(i))) effects.push_back(kEffects[i]);
    }
    return std::tuple(std::string(core::connector_state_name(found->next)), effects,
                      unsigned(found->why));
}

// The state of a connector that asks for a connection there, and hears of a deadline at once.
std::string state_after_early_deadline(const std::string& host, std::uint16_t port) {
    const auto adapter = got(soft::SoftProvider().open({}));
    const auto cq = got(adapter->create_cq(4));
    const auto qp = got(got(adapter->create_pd())->create_qp(cq, cq, nullptr, {}, nullptr));
    const auto connector = got(adapter->create_connector());
    core::ConnectParameters parameters;
    parameters.peer = got(core::SocketAddress::parse(host, port));
    static_cast<void>(got(connector->start_connect(qp, parameters)));
    connector->on_deadline();
    std::string state = core::connector_state_name(connector->state());
    adapter->close();
    return state;
}

}  // namespace

void add_establishment(py::module_& module) {
    module.attr("connector_states") = py::cast(kStates);
    module.attr("connector_inputs") = py::cast(kInputs);
    module.def("connector_step", step, py::arg("state"), py::arg("input"));
    module.def("state_after_early_deadline", state_after_early_deadline, py::arg("host"),
               py::arg("port"), py::call_guard<py::gil_scoped_release>());
}

}  // namespace ndv::testing

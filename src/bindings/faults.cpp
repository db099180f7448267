// SPDX-License-Identifier: Apache-2.0
// Calls of Faults, each of which gives the object back.
#include "bindings/faults.hpp"

#include <pybind11/stl.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "bindings/completion_queue.hpp"
#include "bindings/python/errors.hpp"
#include "bindings/python/gil.hpp"
#include "core/faults.hpp"

namespace ndv::bindings {
namespace {

using core::Faults;

// Calls return the object, so that several may follow each other. They move bytes of connections.
template <typename Call>
py::object changed(const py::object& self, Call call) {
    auto& faults = self.cast<Faults&>();
    check_or_raise(without_gil([&] { return call(faults); }));
    return self;
}

std::chrono::nanoseconds delay_of(const char* name, double seconds) {
    constexpr double kYear_s = 365.0 * 24 * 3600;
    if (!(seconds >= 0 && seconds <= kYear_s)) {
        raise(Status::invalid_parameter,
              "delay: " + std::string(name) + " of " + seconds_text(seconds) + " is impossible",
              "give seconds from 0 on, a year at most");
    }
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
        std::chrono::duration<double>(seconds));
}

}  // namespace

void bind_faults(py::module_& module) {
    py::class_<Faults, std::shared_ptr<Faults>> cls(module, "Faults", py::is_final());
    cls.def(py::init([](std::uint64_t seed, bool direct) {
                return std::make_shared<Faults>(seed, direct);
            }),
            py::arg("seed") = 0, py::kw_only(), py::arg("direct") = false)
        .def(
            "cut",
            [](const py::object& self, std::uint64_t after) {
                return changed(self, [after](Faults& faults) { return faults.cut(after); });
            },
            py::arg("after"))
        .def(
            "delay",
            [](const py::object& self, double seconds, double jitter) {
                const auto time = delay_of("seconds", seconds);
                const auto more = delay_of("jitter", jitter);
                return changed(self,
                               [time, more](Faults& faults) { return faults.delay(time, more); });
            },
            py::arg("seconds"), py::kw_only(), py::arg("jitter") = 0.0)
        .def("stall",
             [](const py::object& self) {
                 return changed(self, [](Faults& faults) { return faults.stall(); });
             })
        .def("resume",
             [](const py::object& self) {
                 return changed(self, [](Faults& faults) {
                     faults.resume();
                     return Expected<void>();
                 });
             })
        .def(
            "corrupt",
            [](const py::object& self, std::uint32_t every) {
                return changed(self, [every](Faults& faults) { return faults.corrupt(every); });
            },
            py::arg("every"))
        .def("kill_peer",
             [](const py::object& self) {
                 return changed(self, [](Faults& faults) { return faults.kill_peer(); });
             })
        .def(
            "reset",
            [](const py::object& self, const std::string& at) {
                return changed(self, [&at](Faults& faults) { return faults.reset(at); });
            },
            py::arg("at"))
        .def(
            "refuse_next",
            [](const py::object& self, std::uint32_t access) {
                return changed(self,
                               [access](Faults& faults) { return faults.refuse_next(access); });
            },
            py::arg("access"))
        .def("withhold_receives",
             [](const py::object& self) {
                 return changed(self, [](Faults& faults) {
                     faults.withhold_receives();
                     return Expected<void>();
                 });
             })
        .def(
            "fail_registration",
            [](const py::object& self, std::uint32_t count) {
                return changed(self, [count](Faults& faults) {
                    faults.fail_registration(count);
                    return Expected<void>();
                });
            },
            py::arg("count") = 1)
        .def(
            "overrun",
            [](const py::object& self, const CompletionQueue& queue) {
                return changed(self, [native = queue.share()](Faults& faults) {
                    return faults.overrun(*native);
                });
            },
            py::arg("queue"))
        .def_property_readonly("seed", &Faults::seed)
        .def_property_readonly("struck", &Faults::struck)
        .def("__repr__", [](const Faults& self) {
            return "<Faults seed=" + std::to_string(self.seed()) +
                   (self.is_direct() ? " direct" : "") + ">";
        });
}

}  // namespace ndv::bindings

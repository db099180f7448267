// SPDX-License-Identifier: Apache-2.0
// An adapter without a provider, whose objects may find no memory when they are closed.
#include "core/adapter.hpp"

#include <pybind11/pybind11.h>

#include <map>
#include <memory>
#include <new>
#include <string>

#include "module.hpp"

namespace ndv::testing {
namespace {

namespace py = pybind11;

class Leaf final : public core::Object {
public:
    explicit Leaf(bool finds_memory) : finds_memory_(finds_memory) {}

private:
    void do_close() override {
        if (!finds_memory_) throw std::bad_alloc();
    }
    const bool finds_memory_;
};

class BareAdapter final : public core::Adapter {
public:
    explicit BareAdapter(bool finds_memory) : finds_memory_(finds_memory) {}
    [[nodiscard]] const core::AdapterInfo& info() const override { return info_; }
    [[nodiscard]] std::map<std::string, std::uint64_t> stats() const override { return {}; }

private:
    static Unexpected lacks() { return fail(Status::not_supported, "a bare adapter"); }
    Expected<std::shared_ptr<core::ProtectionDomain>> do_create_pd() override { return lacks(); }
    Expected<std::shared_ptr<core::CompletionQueue>> do_create_cq(std::uint32_t) override {
        return lacks();
    }
    Expected<std::shared_ptr<core::Connector>> do_create_connector() override { return lacks(); }
    Expected<std::shared_ptr<core::Listener>> do_create_listener() override { return lacks(); }
    void stop() override {
        if (!finds_memory_) throw std::bad_alloc();
    }

    const bool finds_memory_;
    const core::AdapterInfo info_;
};

}  // namespace

void add_adapter(py::module_& module) {
    using Unlocked = py::call_guard<py::gil_scoped_release>;
    py::class_<Leaf, std::shared_ptr<Leaf>>(module, "Leaf")
        .def(py::init<bool>(), py::arg("finds_memory") = true)
        .def_property_readonly("closed", &Leaf::is_closed);
    py::class_<BareAdapter, std::shared_ptr<BareAdapter>>(module, "BareAdapter")
        .def(py::init<bool>(), py::arg("finds_memory") = true)
        .def("adopt",
             [](BareAdapter& self, const std::shared_ptr<Leaf>& leaf) { self.adopt(leaf); })
        .def("close", &BareAdapter::close, Unlocked());
}

}  // namespace ndv::testing

// SPDX-License-Identifier: Apache-2.0
// One end of a benchmark for cli/bench/ends.py: a session of the timed loops in src/bench.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "bench/bench.hpp"
#include "bench/machine.hpp"
#include "bindings/memory.hpp"
#include "bindings/module.hpp"
#include "bindings/python/errors.hpp"
#include "bindings/python/gil.hpp"
#include "bindings/queue_pair.hpp"

namespace ndv::bindings {
namespace {

class BenchSession {
public:
    BenchSession(const QueuePair& qp, const MemoryRegion& source, const MemoryRegion& target,
                 std::pair<std::uint64_t, std::uint32_t> remote, const bench::Plan& plan,
                 const py::iterable& more)
        : session_({all_of(qp, more), source.whole(), target.whole(), remote.first, remote.second},
                   plan) {
        check_or_raise(session_.prepare());
    }

    py::dict run() {
        const auto seconds = [](bench::Clock::duration duration) {
            return std::chrono::duration<double>(duration).count();
        };
        const bench::Outcome outcome = value_or_raise(run_interruptibly(
            [this](const auto& is_interrupted) { return session_.run(is_interrupted); }));
        py::dict out;
        out["operations"] = outcome.operations;
        out["elapsed"] = seconds(outcome.elapsed);
        out["cpu"] = seconds(outcome.cpu);
        out["median"] = seconds(outcome.median);
        out["p99"] = seconds(outcome.p99);
        out["p999"] = seconds(outcome.p999);
        out["minimum"] = seconds(outcome.minimum);
        return out;
    }

private:
    static std::vector<std::shared_ptr<core::QueuePair>> all_of(const QueuePair& first,
                                                                const py::iterable& more) {
        std::vector<std::shared_ptr<core::QueuePair>> qps{first.share()};
        for (const py::handle qp : more) qps.push_back(qp.cast<const QueuePair&>().share());
        return qps;
    }

    bench::Session session_;
};

bench::Plan make_plan(bool is_initiator, bool is_latency, core::OperationType operation,
                      std::uint32_t size, std::uint32_t depth, std::uint64_t iterations,
                      double seconds, std::uint64_t warm_up, std::uint32_t signal_every,
                      bool sleeps) {
    bench::Plan plan;
    plan.role = is_initiator ? bench::Role::initiator : bench::Role::responder;
    plan.measure = is_latency ? bench::Measure::latency : bench::Measure::throughput;
    plan.operation = operation;
    plan.size = size;
    plan.depth = depth;
    plan.iterations = iterations;
    plan.duration = std::chrono::duration_cast<bench::Clock::duration>(timeout_duration(seconds));
    plan.warm_up = warm_up;
    plan.signal_every = signal_every;
    plan.sleeps = sleeps;
    return plan;
}

// Calls without the GIL what takes `seconds`, and returns what it has measured.
template <typename Measurement>
double seconds_of(double seconds, Measurement measurement) {
    const auto duration =
        std::chrono::duration_cast<bench::Clock::duration>(timeout_duration(seconds));
    return value_or_raise(without_gil([&] { return measurement(duration); })).count();
}

void bind_machine(py::module_& module) {
    module.def(
        "_bench_store_ping_pong",
        [](double seconds) { return seconds_of(seconds, bench::store_ping_pong); }, py::kw_only(),
        py::arg("seconds"));
    module.def(
        "_bench_copy_memory",
        [](std::size_t size, double seconds) {
            return seconds_of(seconds,
                              [size](auto duration) { return bench::copy_memory(size, duration); });
        },
        py::kw_only(), py::arg("size"), py::arg("seconds"));
    module.def(
        "_bench_copy_to_process",
        [](int pid, std::uint64_t address, std::size_t size, double seconds) {
            return seconds_of(seconds, [=](auto duration) {
                return bench::copy_to_process(pid, address, size, duration);
            });
        },
        py::kw_only(), py::arg("pid"), py::arg("address"), py::arg("size"), py::arg("seconds"));
}

}  // namespace

void bind_bench(py::module_& module) {
    py::class_<bench::Plan>(module, "_BenchPlan", py::is_final())
        .def(py::init(&make_plan), py::kw_only(), py::arg("is_initiator"), py::arg("is_latency"),
             py::arg("operation"), py::arg("size"), py::arg("depth") = 1, py::arg("iterations") = 0,
             py::arg("seconds") = 0.0, py::arg("warm_up") = 0, py::arg("signal_every") = 1,
             py::arg("sleeps") = false)
        .def_property_readonly("limits", [](const bench::Plan& plan) {
            const core::QueuePairLimits limits = bench::limits_for(plan);
            py::dict out;
            out["receive_queue_depth"] = limits.receive_queue_depth;
            out["initiator_queue_depth"] = limits.initiator_queue_depth;
            out["max_receive_sge"] = limits.max_receive_sge;
            out["max_initiator_sge"] = limits.max_initiator_sge;
            out["inline_size"] = limits.inline_size;
            return out;
        });
    py::class_<BenchSession>(module, "_BenchSession", py::is_final())
        .def(py::init<const QueuePair&, const MemoryRegion&, const MemoryRegion&,
                      std::pair<std::uint64_t, std::uint32_t>, const bench::Plan&,
                      const py::iterable&>(),
             py::arg("qp"), py::arg("source"), py::arg("target"), py::kw_only(), py::arg("remote"),
             py::arg("plan"), py::arg("more") = py::tuple())
        .def("run", &BenchSession::run);
    bind_machine(module);
}

}  // namespace ndv::bindings

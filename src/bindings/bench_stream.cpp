// SPDX-License-Identifier: Apache-2.0
// The loops of src/bench over streams, for cli/bench/stream.py.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <vector>

#include "bench/stream.hpp"
#include "bindings/python/errors.hpp"
#include "bindings/python/gil.hpp"
#include "bindings/stream.hpp"

namespace ndv::bindings {
namespace {

double seconds(bench::Clock::duration duration) {
    return std::chrono::duration<double>(duration).count();
}

template <typename Loop>
auto run(const Stream& self, Loop loop) {
    const auto native = self.share();
    return run_interruptibly(
        [&](const auto& is_interrupted) { return loop(*native, is_interrupted); });
}

}  // namespace

void bind_bench_stream(py::class_<Stream>& cls) {
    cls.def(
           "_bench_source",
           [](const Stream& self, std::size_t size, std::uint64_t total) {
               if (size == 0) throw py::value_error("size must be at least 1");
               return seconds(value_or_raise(run(self, [&](auto& stream, auto& interrupt) {
                   return bench::stream_source(stream, size, total, interrupt);
               })));
           },
           py::arg("size"), py::arg("total"))
        .def(
            "_bench_sink",
            [](const Stream& self, std::uint64_t total) {
                check_or_raise(run(self, [&](auto& stream, auto& interrupt) {
                    return bench::stream_sink(stream, total, interrupt);
                }));
            },
            py::arg("total"))
        .def(
            "_bench_ping",
            [](const Stream& self, std::size_t size, std::uint64_t count) {
                const auto samples = value_or_raise(run(self, [&](auto& stream, auto& interrupt) {
                    return bench::stream_ping(stream, size, count, interrupt);
                }));
                std::vector<double> out;
                out.reserve(samples.size());
                for (const auto sample : samples) out.push_back(seconds(sample));
                return out;
            },
            py::arg("size"), py::arg("count"))
        .def(
            "_bench_echo",
            [](const Stream& self, std::size_t size, std::uint64_t count) {
                check_or_raise(run(self, [&](auto& stream, auto& interrupt) {
                    return bench::stream_echo(stream, size, count, interrupt);
                }));
            },
            py::arg("size"), py::arg("count"));
}

}  // namespace ndv::bindings

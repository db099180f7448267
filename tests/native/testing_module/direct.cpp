// SPDX-License-Identifier: Apache-2.0
// Two engines over one segment as Python objects, in one thread and in virtual time.
#include "direct/stream.hpp"

#include <memory>
#include <utility>

#include "end.hpp"
#include "module.hpp"

namespace ndv::testing {
namespace {

// What two ends share, and both ends of it.
class PyDirectPair {
public:
    class End final : public direct::Bells, public Surroundings {
    public:
        End(PyDirectPair& pair, bool is_second, const EngineLimits& limits)
            : Surroundings(limits), line_(pair.segment_, is_second) {}
        void connect(End& peer, Time receive_wait) {
            peer_ = &peer;
            stream_ =
                std::make_unique<direct::Stream>(line_, *this, send_queue(), receive_queue(),
                                                 memory(), peer.memory(), nullptr, receive_wait);
        }
        void ring_peer() override { ++peer_->rings_; }
        void ring_self() override { ++rings_; }
        [[nodiscard]] int take_rings() { return std::exchange(rings_, 0); }
        [[nodiscard]] direct::Line& line() { return line_; }
        [[nodiscard]] direct::Stream& stream() { return *stream_; }

    private:
        direct::Line line_;
        End* peer_ = nullptr;
        std::unique_ptr<direct::Stream> stream_;
        int rings_ = 0;
    };

    PyDirectPair(const EngineLimits& limits, Time receive_wait)
        : segment_(new direct::Segment{}),
          first_(*this, false, limits),
          second_(*this, true, limits) {
        first_.connect(second_, receive_wait);
        second_.connect(first_, receive_wait);
    }
    [[nodiscard]] End& end(bool is_second) { return is_second ? second_ : first_; }

private:
    const std::shared_ptr<direct::Segment> segment_;
    End first_;
    End second_;
};

class PyDirectEnd final : public PyEnd {
public:
    PyDirectEnd(std::shared_ptr<PyDirectPair> pair, bool is_second)
        : PyEnd(pair->end(is_second), pair->end(is_second).stream()),
          pair_(std::move(pair)),
          end_(pair_->end(is_second)) {}
    [[nodiscard]] PyDirectPair::End& end() { return end_; }

private:
    const std::shared_ptr<PyDirectPair> pair_;
    PyDirectPair::End& end_;
};

}  // namespace

void add_direct(py::module_& module) {
    constexpr std::size_t kBudget = std::size_t{1} << 20;
    py::class_<PyDirectEnd, PyEnd>(module, "DirectEnd")
        .def(
            "transmit",
            [](PyDirectEnd& self, std::size_t budget) {
                return self.end().stream().transmit(budget);
            },
            py::arg("budget") = kBudget)
        .def(
            "receive",
            [](PyDirectEnd& self, std::size_t budget) {
                return self.end().stream().receive(budget);
            },
            py::arg("budget") = kBudget)
        .def("doze", [](PyDirectEnd& self) { return self.end().line().doze(); })
        .def("has_news", [](PyDirectEnd& self) { return self.end().line().has_news(); })
        .def("take_rings", [](PyDirectEnd& self) { return self.end().take_rings(); })
        // What a peer may do to its own messages after it has published them.
        .def("scribble", [](PyDirectEnd& self, std::size_t offset, const py::bytes& data) {
            const auto bytes = bytes_of(data);
            direct::Side& side = self.end().line().mine();
            auto* const begin = reinterpret_cast<std::byte*>(&side.slots);
            const std::size_t size = sizeof side.slots + sizeof side.data - bytes.size();
            std::copy(bytes.begin(), bytes.end(), begin + offset % size);
        });
    module.def(
        "direct_pair",
        [](std::int64_t receive_wait_ns, std::uint32_t send_depth, std::uint32_t receive_depth,
           std::size_t arena_size, std::uint32_t start_position) {
            EngineLimits limits;
            limits.send_depth = send_depth;
            limits.receive_depth = receive_depth;
            limits.arena_size = arena_size;
            limits.start_position = start_position;
            auto pair = std::make_shared<PyDirectPair>(limits, Time(receive_wait_ns));
            return std::pair(std::make_unique<PyDirectEnd>(pair, false),
                             std::make_unique<PyDirectEnd>(pair, true));
        },
        py::kw_only(), py::arg("receive_wait_ns") = 5'000'000'000, py::arg("send_depth") = 64,
        py::arg("receive_depth") = 64, py::arg("arena_size") = 64 * 1024,
        py::arg("start_position") = 0);
}

}  // namespace ndv::testing

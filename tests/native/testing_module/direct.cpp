// SPDX-License-Identifier: Apache-2.0
// Two engines over one segment as Python objects, in one thread and in virtual time.
#include "direct/stream.hpp"

#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "end.hpp"
#include "module.hpp"

namespace ndv::testing {
namespace {

// Of memory that this end could reach, but by another way than loads and stores.
class WayReach final : public direct::Reach {
public:
    WayReach(direct::Way way, RemoteMemory& memory) : way_(way), near_(memory) {}

    // A token of its own each, as in tables that processes share.
    [[nodiscard]] std::uint64_t hazard(std::uint32_t token) override {
        return std::uint64_t{token} + 2;
    }
    [[nodiscard]] AccessResult take(std::uint32_t token, std::uint64_t address,
                                    std::uint32_t length, RemoteRight right,
                                    direct::Grip& out) override {
        const AccessResult result = near_.take(token, address, length, right, out);
        // Atomics are never called, and the kernel may not be asked any more.
        out.way = way_ == direct::Way::calls && (right == RemoteRight::atomic || calls_ == 0)
                      ? direct::Way::carried
                      : way_;
        return result;
    }
    [[nodiscard]] bool take_receive(std::uint64_t place, std::uint32_t length,
                                    direct::Grip& out) override {
        out.way = way_;
        return way_ != direct::Way::carried && near_.take_receive(place, length, out);
    }
    void let_go(const direct::Grip& grip) override { near_.let_go(grip); }
    [[nodiscard]] std::size_t pieces(const direct::Grip& grip, std::size_t offset,
                                     std::size_t length, iovec* out, std::size_t max) override {
        if (grip.way != direct::Way::loads) throw std::logic_error("it is not within reach");
        return near_.pieces(grip, offset, length, out, max);
    }
    [[nodiscard]] std::size_t call(const direct::Grip& grip, std::size_t offset, RemoteRight right,
                                   const iovec* ours, std::size_t count) override {
        if (calls_ == 0) return 0;
        --calls_;
        std::size_t moved = 0;
        for (std::size_t i = 0; i < count; ++i) {
            for (std::size_t done = 0; done < ours[i].iov_len;) {
                iovec piece{};
                const std::size_t left = ours[i].iov_len - done;
                static_cast<void>(near_.pieces(grip, offset + moved, left, &piece, 1));
                auto* const mine = static_cast<std::byte*>(ours[i].iov_base) + done;
                const bool is_write = right == RemoteRight::write;
                std::memcpy(is_write ? piece.iov_base : mine, is_write ? mine : piece.iov_base,
                            piece.iov_len);
                done += piece.iov_len;
                moved += piece.iov_len;
            }
        }
        return moved;
    }
    [[nodiscard]] std::uint64_t place_of(const std::byte* data, std::size_t size) override {
        return near_.place_of(data, size);
    }
    void allow_calls(int calls) { calls_ = calls; }

private:
    const direct::Way way_;
    direct::NearReach near_;
    int calls_ = 1'000'000;
};

// What two ends share, and both ends of it.
class PyDirectPair {
public:
    class End final : public direct::Bells, public Surroundings {
    public:
        End(PyDirectPair& pair, bool is_second, const EngineLimits& limits)
            : Surroundings(limits), line_(pair.segment_, is_second) {}
        void connect(End& peer, Time receive_wait, direct::Way way) {
            peer_ = &peer;
            reach_ = std::make_unique<WayReach>(way, peer.memory());
            stream_ = std::make_unique<direct::Stream>(line_, *this, send_queue(), receive_queue(),
                                                       memory(), *reach_, nullptr, receive_wait);
        }
        [[nodiscard]] bool lives_peer() const override { return !is_peer_dead_; }
        void set_peer_dead() { is_peer_dead_ = true; }
        void allow_calls(int calls) { reach_->allow_calls(calls); }
        void ring_peer() override { ++peer_->rings_; }
        void ring_self() override { ++rings_; }
        [[nodiscard]] int take_rings() { return std::exchange(rings_, 0); }
        [[nodiscard]] direct::Line& line() { return line_; }
        [[nodiscard]] direct::Stream& stream() { return *stream_; }

    private:
        direct::Line line_;
        End* peer_ = nullptr;
        std::unique_ptr<WayReach> reach_;
        std::unique_ptr<direct::Stream> stream_;
        int rings_ = 0;
        bool is_peer_dead_ = false;
    };

    PyDirectPair(const EngineLimits& limits, Time receive_wait, direct::Way way)
        : segment_(new direct::Segment{}),
          first_(*this, false, limits),
          second_(*this, true, limits) {
        first_.connect(second_, receive_wait, way);
        second_.connect(first_, receive_wait, way);
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
        // As a poll does beside steps. False: a step has to see to the rest.
        .def(
            "take_ahead",
            [](PyDirectEnd& self, std::size_t budget) {
                direct::Stream& stream = self.end().stream();
                bool is_more = false;
                return stream.begin_ahead(false) && stream.take_ahead(budget, is_more);
            },
            py::arg("budget") = kBudget)
        .def("doze", [](PyDirectEnd& self) { return self.end().line().doze(); })
        .def("has_news", [](PyDirectEnd& self) { return self.end().line().has_news(); })
        .def("take_rings", [](PyDirectEnd& self) { return self.end().take_rings(); })
        .def("set_hazard",
             [](PyDirectEnd& self, std::uint64_t value) {
                 self.end().line().mine().hazard.store(value);
             })
        .def("set_peer_dead", [](PyDirectEnd& self) { self.end().set_peer_dead(); })
        .def("allow_calls", [](PyDirectEnd& self, int calls) { self.end().allow_calls(calls); })
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
           std::size_t arena_size, std::uint32_t start_position, const std::string& way) {
            EngineLimits limits;
            limits.send_depth = send_depth;
            limits.receive_depth = receive_depth;
            limits.arena_size = arena_size;
            limits.start_position = start_position;
            auto pair = std::make_shared<PyDirectPair>(limits, Time(receive_wait_ns),
                                                       way == "loads"   ? direct::Way::loads
                                                       : way == "calls" ? direct::Way::calls
                                                                        : direct::Way::carried);
            return std::pair(std::make_unique<PyDirectEnd>(pair, false),
                             std::make_unique<PyDirectEnd>(pair, true));
        },
        py::kw_only(), py::arg("receive_wait_ns") = 5'000'000'000, py::arg("send_depth") = 64,
        py::arg("receive_depth") = 64, py::arg("arena_size") = 64 * 1024,
        py::arg("start_position") = 0, py::arg("way") = "loads");
}

}  // namespace ndv::testing

// SPDX-License-Identifier: Apache-2.0
// Completion queues whose completions the test makes up, and the leases of a soft one.
#include <pybind11/pybind11.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <memory>
#include <new>
#include <optional>
#include <utility>

#include "core/completion_queue.hpp"
#include "core/outstanding.hpp"
#include "module.hpp"
#include "providers/soft/completion_queue.hpp"

namespace ndv::testing {
namespace {

namespace py = pybind11;

// An explicit template instantiation may name private members: see cursor_access.hpp.
using Ring = base::MpscRing<core::Completion>;
auto ring_member();
auto producers_member();
template <auto kRing, auto kProducers>
struct RingMembers {
    friend auto ring_member() { return kRing; }
    friend auto producers_member() { return kProducers; }
};
template struct RingMembers<&core::CompletionQueue::ring_, &Ring::producers_>;

// Its next poll() that finds nothing brings what the test has put in its way.
class MadeUpQueue final : public core::CompletionQueue {
public:
    explicit MadeUpQueue(std::uint32_t depth) : core::CompletionQueue(depth) {}

    void come(unsigned count) { to_come_ = count; }
    void arrive() {
        core::Completion made;
        made.requests = requests_.get();
        made.requests->begin();
        if (!push(made)) core::discard(made);
    }
    [[nodiscard]] auto& producers() { return *((this->*ring_member()).*producers_member()).load(); }
    // A producer that has taken the next place, and has not written to it yet.
    void claim() { producers().tail.fetch_add(1); }
    void write_claimed(std::uint64_t place) {
        auto& slot = producers().slots[place];
        slot.value.requests = requests_.get();
        slot.value.requests->begin();
        slot.sequence.store(place + 1);
    }
    std::size_t take(std::size_t limit) {
        std::array<core::Completion, 64> taken;
        bool needs_large = false;
        const std::size_t count =
            poll(taken.data(), std::min(limit, taken.size()), core::Budget::large, needs_large);
        for (std::size_t i = 0; i < count; ++i) core::discard(taken[i]);
        return count;
    }
    [[nodiscard]] bool is_readable() {
        std::uint64_t count = 0;
        auto fd = descriptor();
        if (!fd || ::read(*fd, &count, sizeof count) != sizeof count) return false;
        static_cast<void>(!::write(*fd, &count, sizeof count));
        return true;
    }
    [[nodiscard]] bool is_armed() const { return armed().has_value(); }
    [[nodiscard]] std::uint64_t timers() const { return timers_.load(); }
    void time_is_over() { notify_if_due(); }
    void run_out_of_memory() { finds_memory_ = false; }

private:
    bool do_progress(core::Budget) override {
        for (; to_come_ > 0; --to_come_) arrive();
        return false;
    }
    void do_wait(std::chrono::nanoseconds) override {}
    void wake() noexcept override {}
    [[nodiscard]] bool has_notify_timer() const override { return true; }
    void set_notify_timer(std::chrono::nanoseconds) override {
        if (!finds_memory_) throw std::bad_alloc();
        ++timers_;
    }

    const core::Outstanding::OfQueue requests_ = core::Outstanding::make(nullptr);
    unsigned to_come_ = 0;
    bool finds_memory_ = true;
    std::atomic<std::uint64_t> timers_{0};
};

// A soft queue without connections.
class LeasedQueue {
public:
    LeasedQueue() : progress_(std::make_shared<soft::Progress>()) {
        queue_ = *soft::CompletionQueue::create(8, progress_);
    }
    void poll() {
        std::array<core::Completion, 1> taken;
        bool needs_large = false;
        began_ = core::now();
        static_cast<void>(queue_->poll(taken.data(), 1, core::Budget::small, needs_large));
    }
    void arm(core::Notify kind) {
        queue_->arm(kind);
        if (kind != core::Notify::errors) queue_->end_lease();
    }
    // At the time when the last poll began, so that a slow machine changes nothing.
    [[nodiscard]] bool is_leased() const { return queue_->lease(began_) != core::Lease::none; }

private:
    std::shared_ptr<soft::Progress> progress_;
    std::shared_ptr<soft::CompletionQueue> queue_;
    core::Time began_{};
};

}  // namespace

void add_queue(py::module_& module) {
    using Unlocked = py::call_guard<py::gil_scoped_release>;
    py::class_<MadeUpQueue, std::shared_ptr<MadeUpQueue>>(module, "MadeUpQueue")
        .def(py::init<std::uint32_t>(), py::arg("depth") = 64)
        .def("come", &MadeUpQueue::come, py::arg("count"))
        .def("arrive", &MadeUpQueue::arrive, Unlocked())
        .def("claim", &MadeUpQueue::claim)
        .def("write_claimed", &MadeUpQueue::write_claimed, py::arg("place"))
        .def("poll", &MadeUpQueue::take, py::arg("limit") = 32)
        .def("arm", [](MadeUpQueue& self) { self.arm(core::Notify::any); })
        .def(
            "moderate",
            [](MadeUpQueue& self, std::uint32_t interval_us, std::uint32_t count) {
                return self.control_interrupt_moderation(interval_us, count).has_value();
            },
            Unlocked())
        .def("time_is_over", &MadeUpQueue::time_is_over)
        .def("run_out_of_memory", &MadeUpQueue::run_out_of_memory)
        .def_property_readonly("is_readable", &MadeUpQueue::is_readable)
        .def_property_readonly("is_armed", &MadeUpQueue::is_armed)
        .def_property_readonly("timers", &MadeUpQueue::timers);
    py::class_<LeasedQueue>(module, "LeasedQueue")
        .def(py::init<>())
        .def("poll", &LeasedQueue::poll)
        .def("arm", [](LeasedQueue& self) { self.arm(core::Notify::any); })
        .def("arm_for_errors", [](LeasedQueue& self) { self.arm(core::Notify::errors); })
        .def_property_readonly("is_leased", &LeasedQueue::is_leased);
}

}  // namespace ndv::testing

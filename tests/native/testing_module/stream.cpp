// SPDX-License-Identifier: Apache-2.0
// src/stream's wire structs and its engine as Python objects, so that tests write every input by
// hand and carry every output themselves.
#include <pybind11/pybind11.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <future>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <vector>

#include "module.hpp"
#include "stream/engine.hpp"
#include "stream/wire.hpp"
#include "stream/worker.hpp"

namespace ndv::testing {
namespace {

namespace py = pybind11;
using namespace ndv::stream;

template <std::size_t kSize>
py::bytes to_bytes(const std::array<std::byte, kSize>& data) {
    return {reinterpret_cast<const char*>(data.data()), data.size()};
}

std::string_view view_of(const py::bytes& data) { return data; }

py::tuple to_tuple(const RemoteRange& range) {
    return py::make_tuple(range.address, range.key, range.length);
}

RemoteRange to_range(const py::handle& range) {
    const auto tuple = range.cast<py::tuple>();
    return {tuple[0].cast<std::uint64_t>(), tuple[1].cast<std::uint32_t>(),
            tuple[2].cast<std::uint32_t>()};
}

// A dict, or a str that says why not.
py::object parse_connection_data(const py::bytes& data) {
    const std::string_view bytes = view_of(data);
    auto parsed =
        ConnectionData::parse({reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()});
    if (!parsed) return py::str(parsed.error().what);
    py::dict out;
    out["is_big_endian"] = parsed->is_big_endian;
    out["knows_iomap"] = parsed->knows_iomap;
    out["credits"] = parsed->credits;
    out["iomap_entries"] = parsed->iomap_entries;
    out["targets"] = to_tuple(parsed->targets);
    out["data"] = to_tuple(parsed->data);
    return out;
}

ConnectionData to_connection_data(const py::dict& fields) {
    ConnectionData out;
    out.is_big_endian = fields["is_big_endian"].cast<bool>();
    out.knows_iomap = fields["knows_iomap"].cast<bool>();
    out.credits = fields["credits"].cast<std::uint16_t>();
    out.iomap_entries = fields["iomap_entries"].cast<std::uint32_t>();
    out.targets = to_range(fields["targets"]);
    out.data = to_range(fields["data"]);
    return out;
}

template <std::size_t kSize>
std::array<std::byte, kSize> exactly(const py::bytes& data) {
    const std::string_view bytes = view_of(data);
    if (bytes.size() != kSize) throw py::value_error("wrong length");
    std::array<std::byte, kSize> out;
    std::memcpy(out.data(), bytes.data(), kSize);
    return out;
}

// An engine with the array that its peer writes descriptors to.
class TestEngine {
public:
    TestEngine(bool immediate, std::uint16_t credits, std::uint32_t max_chunk, bool waits_for_peer,
               std::uint32_t iomap_entries)
        : targets_(Engine::target_bytes(iomap_entries)) {
        Engine::Config config;
        config.mode = immediate ? Mode::immediate : Mode::message;
        config.credits = credits;
        config.max_chunk = max_chunk;
        config.waits_for_peer = waits_for_peer;
        config.iomap_entries = iomap_entries;
        config.targets = targets_.data();
        engine_ = std::make_unique<Engine>(config);
    }

    void write_targets(std::size_t offset, const py::bytes& data) {
        const std::string_view bytes = view_of(data);
        if (offset + bytes.size() > targets_.size()) throw py::value_error("outside the array");
        std::memcpy(targets_.data() + offset, bytes.data(), bytes.size());
    }
    Engine& get() { return *engine_; }

private:
    std::vector<std::byte> targets_;
    std::unique_ptr<Engine> engine_;
};

// None, or the text of the refusal.
py::object told(const Expected<void>& outcome) {
    return outcome ? py::object(py::none()) : py::str(outcome.error().what);
}

py::tuple to_tuple(const View& view) {
    return py::make_tuple(view.segment, view.offset, view.length);
}

View to_view(const py::tuple& view) {
    return {view[0].cast<std::uint16_t>(), view[1].cast<std::uint32_t>(),
            view[2].cast<std::uint32_t>()};
}

// How often a worker runs a task that finds no memory so many times.
int runs_of_task_without_memory(int times) {
    std::atomic<int> runs{0};
    std::promise<void> done;
    Worker worker;  // goes first, and its thread with it
    if (auto started = worker.start(); !started) throw py::value_error(started.error().what);
    worker.post([&] {
        if (runs++ < times) throw std::bad_alloc();
        done.set_value();
    });
    const py::gil_scoped_release released;
    done.get_future().wait();
    return runs;
}

py::object poll_control(TestEngine& self) {
    Control control;
    if (!self.get().poll_control(control)) return py::none();
    py::dict out;
    out["word"] = control.has_word ? py::object(py::int_(control.word.pack())) : py::none();
    out["target"] = control.has_write ? py::object(to_tuple(control.target)) : py::none();
    out["bytes"] = py::bytes(reinterpret_cast<const char*>(control.bytes.data()),
                             control.has_write ? control.target.length : 0);
    return out;
}

py::tuple take_chunk(TestEngine& self, std::uint32_t most) {
    if (most == 0 || self.get().sendable() == 0) throw py::value_error("nothing can be sent");
    const Chunk chunk = self.get().take_chunk(most);
    return py::make_tuple(chunk.address, chunk.key, chunk.length, chunk.word.pack());
}

}  // namespace

void add_stream(py::module_& module) {
    module.def("parse_connection_data", parse_connection_data);
    module.def("emit_connection_data",
               [](const py::dict& fields) { return to_bytes(to_connection_data(fields).emit()); });
    module.def("parse_message_word", [](const py::bytes& data) {
        const auto bytes = exactly<MessageWord::kSize>(data);
        const MessageWord word = MessageWord::parse(bytes);
        return py::make_tuple(static_cast<unsigned>(word.op), word.data);
    });
    module.def("emit_message_word", [](unsigned op, std::uint32_t data) {
        return to_bytes(MessageWord{static_cast<MessageOp>(op & 7U), data}.emit());
    });
    module.def("parse_descriptor", [](const py::bytes& data, bool is_swapped) {
        return to_tuple(Descriptor::parse(exactly<Descriptor::kSize>(data), is_swapped).range);
    });
    module.def("emit_descriptor", [](const py::tuple& range, bool is_swapped) {
        return to_bytes(Descriptor{to_range(range)}.emit(is_swapped));
    });
    module.def("runs_of_task_without_memory", runs_of_task_without_memory);
    py::class_<TestEngine>(module, "StreamEngine")
        .def(py::init<bool, std::uint16_t, std::uint32_t, bool, std::uint32_t>(), py::kw_only(),
             py::arg("immediate") = false, py::arg("credits") = 64, py::arg("max_chunk") = 65536,
             py::arg("waits_for_peer") = false, py::arg("iomap_entries") = 0)
        .def("add_mapping",
             [](TestEngine& self, std::uint64_t offset, const py::tuple& range) -> py::object {
                 auto number = self.get().add_mapping({offset, to_range(range)});
                 if (!number) return py::str(number.error().what);
                 return py::int_(*number);
             })
        .def("remove_mapping",
             [](TestEngine& self, std::uint32_t number) { self.get().remove_mapping(number); })
        .def("find_mapping",
             [](TestEngine& self, std::uint64_t offset) {
                 return to_tuple(self.get().find_mapping(offset));
             })
        .def("write_targets", &TestEngine::write_targets)
        .def("add_segment",
             [](TestEngine& self, const py::tuple& range) {
                 if (self.get().segment_count() >= Engine::kMaxSegments) {
                     throw py::value_error("too many segments");
                 }
                 self.get().add_segment(to_range(range));
             })
        .def("local_data",
             [](TestEngine& self, std::uint64_t address, std::uint32_t key) {
                 return to_bytes(self.get().local_data(address, key).emit());
             })
        .def("start",
             [](TestEngine& self, const py::bytes& data) -> py::object {
                 const std::string_view bytes = view_of(data);
                 auto parsed = ConnectionData::parse(
                     {reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()});
                 if (!parsed) return py::str(parsed.error().what);
                 return told(self.get().start(*parsed));
             })
        .def("handle_message",
             [](TestEngine& self, std::uint32_t word) {
                 return told(self.get().handle_message(MessageWord::unpack(word)));
             })
        .def("request_keepalive", [](TestEngine& self) { self.get().request_keepalive(); })
        .def("shut_write", [](TestEngine& self) { self.get().shut_write(); })
        .def("disconnect", [](TestEngine& self) { self.get().disconnect(); })
        .def("poll_control", poll_control)
        .def("take_chunk", take_chunk)
        .def("front", [](TestEngine& self) { return to_tuple(self.get().front()); })
        .def("consume",
             [](TestEngine& self, std::uint32_t length) {
                 if (length > self.get().front().length) throw py::value_error("too much");
                 self.get().consume(length);
             })
        .def("take",
             [](TestEngine& self, std::uint32_t most) { return to_tuple(self.get().take(most)); })
        .def("release",
             [](TestEngine& self, const py::tuple& view) { self.get().release(to_view(view)); })
        .def_property_readonly("sendable", [](TestEngine& self) { return self.get().sendable(); })
        .def_property_readonly("readable", [](TestEngine& self) { return self.get().readable(); })
        .def_property_readonly("wants_segment",
                               [](TestEngine& self) { return self.get().wants_segment(); })
        .def_property_readonly("is_peer_shut",
                               [](TestEngine& self) { return self.get().is_peer_shut(); })
        .def_property_readonly("is_peer_gone",
                               [](TestEngine& self) { return self.get().is_peer_gone(); })
        .def_property_readonly("is_over", [](TestEngine& self) { return self.get().is_over(); });
}

}  // namespace ndv::testing

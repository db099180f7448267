// SPDX-License-Identifier: Apache-2.0
// One end of a stream as a Python object: requests, receives and what comes of them, whatever
// carries the stream.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "../engine_fixture.hpp"
#include "iwarp/stream.hpp"

namespace ndv::testing {

namespace py = pybind11;
using namespace ndv::iwarp;

using Ranges = std::vector<std::pair<std::size_t, std::uint32_t>>;  // offset, length

[[nodiscard]] std::span<const std::byte> bytes_of(const py::bytes& data);
[[nodiscard]] py::bytes to_bytes(std::span<const std::byte> data);
// None, or a tuple: ("local" | "peer", layer, error type, code), ("system", errno).
[[nodiscard]] py::object cause_of(const Cause& cause);

class PyEnd {
public:
    PyEnd(Surroundings& surroundings, Stream& stream)
        : surroundings_(surroundings), stream_(stream) {}
    PyEnd(const PyEnd&) = delete;
    PyEnd& operator=(const PyEnd&) = delete;
    virtual ~PyEnd() = default;

    void add_region(std::uint32_t stag, std::uint64_t to, std::size_t offset, std::uint64_t length,
                    bool remote_read, bool remote_write, bool remote_atomic, bool is_revocable,
                    std::uint32_t pd, std::uint32_t page, bool is_waiting) {
        check_range(offset, length);
        if (page != 0 && length % page != 0) throw py::value_error("not whole pages");
        const FakeMemory::Region region{
            stag,         to,          surroundings_.arena().data() + offset,
            length,       remote_read, remote_write,
            is_revocable, pd,          page,
            remote_atomic};
        is_waiting ? surroundings_.memory().prepare(region) : surroundings_.memory().add(region);
    }
    // A bind, fast_register or invalidate: the first two make what add_region() left waiting.
    bool post_local(const std::string& kind, std::uint64_t context, std::uint32_t stag,
                    bool fenced) {
        SendRequest request;
        request.kind = kind == "bind"            ? RequestKind::bind
                       : kind == "fast_register" ? RequestKind::fast_register
                                                 : RequestKind::invalidate;
        request.context = context;
        request.local_token = stag;
        request.is_fenced = fenced;
        return surroundings_.post(request, {});
    }

    bool post_send(std::uint64_t context, const Ranges& ranges, bool solicited, bool fenced,
                   std::optional<std::uint32_t> invalidate) {
        SendRequest request;
        request.kind = RequestKind::send;
        request.context = context;
        request.solicits = solicited;
        request.is_fenced = fenced;
        request.invalidates = invalidate.has_value();
        request.remote_token = invalidate.value_or(0);
        return surroundings_.post(request, checked(ranges));
    }
    bool post_write(std::uint64_t context, const Ranges& ranges, std::uint32_t stag,
                    std::uint64_t to, bool fenced, std::optional<std::uint32_t> immediate,
                    bool solicited) {
        SendRequest request;
        request.kind = immediate ? RequestKind::write_immediate : RequestKind::write;
        request.operand = immediate.value_or(0);
        request.solicits = solicited;
        return post_remote(request, context, ranges, stag, to, fenced);
    }
    bool post_fetch_add(std::uint64_t context, const Ranges& ranges, std::uint32_t stag,
                        std::uint64_t to, std::uint64_t value, bool fenced) {
        SendRequest request;
        request.kind = RequestKind::fetch_add;
        request.operand = value;
        return post_remote(request, context, ranges, stag, to, fenced);
    }
    bool post_compare_swap(std::uint64_t context, const Ranges& ranges, std::uint32_t stag,
                           std::uint64_t to, std::uint64_t expected, std::uint64_t replacement,
                           bool fenced) {
        SendRequest request;
        request.kind = RequestKind::compare_swap;
        request.operand = replacement;
        request.compare = expected;
        return post_remote(request, context, ranges, stag, to, fenced);
    }
    bool post_read(std::uint64_t context, const Ranges& ranges, std::uint32_t stag,
                   std::uint64_t to, bool fenced, std::optional<std::uint32_t> invalidate) {
        SendRequest request;
        request.kind = RequestKind::read;
        request.invalidates = invalidate.has_value();
        request.local_token = invalidate.value_or(0);
        return post_remote(request, context, ranges, stag, to, fenced);
    }
    bool post_receive(std::uint64_t context, const Ranges& ranges) {
        return surroundings_.post_receive(context, checked(ranges));
    }

    void begin(std::int64_t now_ns) {
        now_ = Time(now_ns);
        stream_.begin_step(now_);
    }
    void end() {
        stream_.end_step();
        // The promise of end_step(): deregistration waits for a step, never longer.
        if (surroundings_.memory().pins() != 0) throw std::runtime_error("end_step() kept a pin");
    }
    py::list completions() {
        py::list out;
        StreamCompletion completion;
        while (stream_.poll_completion(completion)) {
            py::dict entry;
            entry["is_receive"] = completion.is_receive;
            entry["status"] = std::string(status_name(completion.status));
            entry["cause"] = cause_of(completion.cause);
            if (completion.is_receive) {
                const ReceiveRequest& request = surroundings_.receive_queue()[completion.position];
                entry["context"] = request.context;
                entry["received"] = request.received;
                entry["is_solicited"] = request.is_solicited;
                entry["immediate"] = request.has_immediate ? py::object(py::int_(request.immediate))
                                                           : py::object(py::none());
                entry["invalidated"] = request.has_invalidated
                                           ? py::object(py::int_(request.invalidated_stag))
                                           : py::object(py::none());
            } else {
                entry["context"] = surroundings_.send_queue()[completion.position].context;
            }
            stream_.retire(completion);
            out.append(entry);
        }
        return out;
    }
    py::set events() {
        const StreamEvents events = stream_.take_events();
        py::set out;
        if (events.first_fpdu) out.add("first_fpdu");
        if (events.peer_closed) out.add("peer_closed");
        if (events.drained) out.add("drained");
        if (events.over) out.add("over");
        return out;
    }
    std::optional<std::int64_t> deadline() {
        const auto deadline = stream_.poll_deadline();
        if (!deadline) return std::nullopt;
        return deadline->count();
    }

    py::bytes read(std::size_t offset, std::size_t length) {
        check_range(offset, length);
        return to_bytes(surroundings_.arena().subspan(offset, length));
    }
    void write(std::size_t offset, const py::bytes& data) {
        const auto bytes = bytes_of(data);
        check_range(offset, bytes.size());
        std::copy(bytes.begin(), bytes.end(),
                  surroundings_.arena().begin() + static_cast<std::ptrdiff_t>(offset));
    }
    [[nodiscard]] std::size_t arena_size() { return surroundings_.arena().size(); }

    Surroundings& surroundings() { return surroundings_; }
    Stream& stream() { return stream_; }
    [[nodiscard]] Time now() const { return now_; }

private:
    void check_range(std::size_t offset, std::uint64_t length) {
        const std::size_t size = surroundings_.arena().size();
        if (offset > size || length > size - offset) {
            throw py::index_error("the range leaves the arena");
        }
    }
    std::vector<Range> checked(const Ranges& ranges) {
        std::vector<Range> out;
        for (const auto& [offset, length] : ranges) {
            check_range(offset, length);
            out.push_back({offset, length});
        }
        if (out.size() > kMaxRanges) throw py::index_error("too many segments");
        return out;
    }
    bool post_remote(SendRequest& request, std::uint64_t context, const Ranges& ranges,
                     std::uint32_t stag, std::uint64_t to, bool fenced) {
        request.context = context;
        request.remote_token = stag;
        request.remote_address = to;
        request.is_fenced = fenced;
        return surroundings_.post(request, checked(ranges));
    }

    static constexpr std::size_t kMaxRanges = EngineLimits{}.max_segments;
    Surroundings& surroundings_;
    Stream& stream_;
    Time now_{};
};

}  // namespace ndv::testing

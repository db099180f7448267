// SPDX-License-Identifier: Apache-2.0
// A link that is no TCP socket: one end of an AF_UNIX socket pair, whose bytes may stay on their
// way; and two queue pairs of a soft adapter that are joined over two of them, without a connector.
#include "providers/soft/link.hpp"

#include <pybind11/pybind11.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "module.hpp"
#include "providers/soft/adapter.hpp"
#include "stream/block.hpp"

namespace ndv::testing {
namespace {

namespace py = pybind11;
using Unlocked = py::gil_scoped_release;

constexpr std::size_t kMemory = 1U << 20U;
constexpr std::chrono::seconds kLimit{30};  // only means failure

// One direction. Slow: what is written is on its way until deliver().
class Wire {
public:
    Wire(base::Descriptor end, std::string name, std::string peer, bool is_slow)
        : end_(std::move(end)), name_(std::move(name)), peer_(std::move(peer)), is_slow_(is_slow) {}

    [[nodiscard]] int descriptor() const { return end_.get(); }
    [[nodiscard]] std::string name(bool of_peer) const { return of_peer ? peer_ : name_; }

    soft::LinkResult write(const iovec* pieces, std::size_t count) {
        const base::Lock lock(mutex_);
        if (!is_slow_) return send(pieces, count);
        const std::size_t before = kept_.size();
        for (std::size_t i = 0; i < count; ++i) {
            kept_.append(static_cast<const char*>(pieces[i].iov_base), pieces[i].iov_len);
        }
        return {soft::LinkResult::Kind::moved, kept_.size() - before, 0};
    }
    void shut() {
        const base::Lock lock(mutex_);
        is_shut_ = true;
        if (!is_slow_) ::shutdown(end_.get(), SHUT_WR);
    }
    void deliver() {
        const base::Lock lock(mutex_);
        is_slow_ = false;
        const iovec piece{kept_.data(), kept_.size()};
        if (!kept_.empty()) static_cast<void>(send(&piece, 1));
        if (is_shut_) ::shutdown(end_.get(), SHUT_WR);
    }
    static soft::LinkResult failed() {
        if (errno == EAGAIN) return {soft::LinkResult::Kind::would_block, 0, 0};
        return {soft::LinkResult::Kind::error, 0, errno};
    }

private:
    soft::LinkResult send(const iovec* pieces, std::size_t count) {
        msghdr message{};
        message.msg_iov = const_cast<iovec*>(pieces);
        message.msg_iovlen = count;
        const ssize_t moved = ::sendmsg(end_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (moved < 0) return failed();
        return {soft::LinkResult::Kind::moved, static_cast<std::size_t>(moved), 0};
    }

    const base::Descriptor end_;
    const std::string name_;
    const std::string peer_;
    base::Mutex mutex_;
    bool is_slow_ NDV_GUARDED_BY(mutex_);
    bool is_shut_ NDV_GUARDED_BY(mutex_) = false;
    std::string kept_ NDV_GUARDED_BY(mutex_);
};

class UnixLink final : public soft::Link, base::Live<base::LiveKind::link> {
public:
    explicit UnixLink(std::shared_ptr<Wire> wire) : wire_(std::move(wire)) {}

    soft::LinkResult read(const iovec* pieces, std::size_t count) override {
        return receive(pieces, count, 0);
    }
    soft::LinkResult write(const iovec* pieces, std::size_t count, bool /*end*/) override {
        return wire_->write(pieces, count);
    }
    soft::LinkResult peek() const override {
        std::byte byte;
        const iovec piece{&byte, 1};
        return receive(&piece, 1, MSG_PEEK);
    }
    void shut_write() override { wire_->shut(); }
    int descriptor() const override { return wire_->descriptor(); }
    std::string name(bool of_peer) const override { return wire_->name(of_peer); }

private:
    soft::LinkResult receive(const iovec* pieces, std::size_t count, int flags) const {
        msghdr message{};
        message.msg_iov = const_cast<iovec*>(pieces);
        message.msg_iovlen = count;
        const ssize_t moved = ::recvmsg(descriptor(), &message, flags | MSG_DONTWAIT);
        if (moved < 0) return Wire::failed();
        if (moved == 0) return {soft::LinkResult::Kind::end, 0, 0};
        return {soft::LinkResult::Kind::moved, static_cast<std::size_t>(moved), 0};
    }

    const std::shared_ptr<Wire> wire_;
};

// What a connector would hear, in order.
class Watcher final : public core::QueuePairObserver {
public:
    void on_heard() override { note("established"); }
    bool on_peer_closed() override {
        note("peer_closed");
        return true;
    }
    void on_drained() override { note("drained"); }
    void on_over(bool is_failure, int) override { note(is_failure ? "broken" : "over"); }
    [[nodiscard]] bool has_event() {
        const base::Lock lock(mutex_);
        return !events_.empty();
    }
    // Empty when nothing came.
    std::string take() {
        base::UniqueLock lock(mutex_);
        const auto limit = std::chrono::steady_clock::now() + kLimit;
        while (events_.empty()) {
            if (came_.wait_until(lock.native(), limit) == std::cv_status::timeout) return {};
        }
        std::string event = std::move(events_.front());
        events_.pop_front();
        return event;
    }

private:
    void note(const char* event) {
        const base::Lock lock(mutex_);
        events_.emplace_back(event);
        came_.notify_all();
    }
    base::Mutex mutex_;
    std::condition_variable came_;
    std::deque<std::string> events_ NDV_GUARDED_BY(mutex_);
};

class JoinedPair {
public:
    // direct: the first side begins when begin() says so, and its bytes stay on their way until
    // deliver(). The second one offers to share memory.
    JoinedPair(bool crc, bool direct) : crc_(crc), adapter_(got(soft::SoftProvider().open({}))) {
        join(sides_, direct);
        if (!direct) begin();
        std::shared_ptr<soft::Meeting> meeting;
        if (direct) {
            meeting =
                soft::Meeting::offer(*link(sides_[1]), sides_[1].qp->reach(), nullptr, nullptr);
        }
        attach(sides_[1], config(1), std::move(meeting));
        if (direct) join(others_, true);
    }
    void begin() { attach(sides_[0], config(0), soft::Meeting::find(*link(sides_[0]))); }
    void deliver() { sides_[0].wire->deliver(); }
    bool is_direct(std::size_t side) { return sides_.at(side).qp->is_direct(); }
    // Waits until the second side waits no more for what the first one says: the progress thread
    // is done with it before it comes to a side which begins to wait now.
    void outwait() {
        attach(others_[1], config(1), nullptr);
        const Unlocked unlocked;
        if (others_[1].watcher->take() != "established") throw std::runtime_error("it waits on");
    }

    void fill(std::size_t side, std::size_t offset, const std::string& bytes) {
        std::memcpy(sides_.at(side).block->data() + offset, bytes.data(), bytes.size());
    }
    py::bytes at(std::size_t side, std::size_t offset, std::size_t size) {
        return {reinterpret_cast<const char*>(sides_.at(side).block->data() + offset), size};
    }
    // Its own bytes from `offset` on, and for Write and Read the peer's at the same place.
    void post(std::size_t side, std::string_view name, std::size_t offset, std::size_t size) {
        core::QueuePair& qp = *sides_.at(side).qp;
        const core::Segment segment = segment_of(sides_[side], offset, size);
        Status status = Status::success;
        if (name == "receive") {
            core::ReceiveRequest request;
            request.segments = {&segment, 1};
            status = qp.post_receive(request);
        } else {
            core::WorkRequest request;
            request.type = name == "write"  ? core::OperationType::write
                           : name == "read" ? core::OperationType::read
                                            : core::OperationType::send;
            request.segments = {&segment, 1};
            request.remote_address = segment_of(sides_[1 - side], offset, size).address;
            request.remote_token = sides_[1 - side].region->tokens().remote;
            status = qp.post(request);
            static_cast<void>(qp.transmit(core::Budget::large));
        }
        if (is_failure(status)) throw std::runtime_error(std::string(status_name(status)));
    }
    // Status and bytes of the next completion.
    std::pair<std::string, std::uint32_t> take(std::size_t side) {
        const Unlocked unlocked;
        core::CompletionQueue& cq = *sides_.at(side).cq;
        core::Completion done;
        bool needs_large = false;
        while (cq.poll(&done, 1, core::Budget::large, needs_large) == 0) {
            if (!cq.wait(kLimit)) throw std::runtime_error("no completion came");
        }
        done.requests->end();
        return {std::string(status_name(done.status)), done.bytes_transferred};
    }
    std::string event(std::size_t side) {
        const Unlocked unlocked;
        return sides_.at(side).watcher->take();
    }
    bool has_event(std::size_t side) { return sides_.at(side).watcher->has_event(); }
    void disconnect(std::size_t side) { sides_.at(side).qp->disconnect(); }
    void flush(std::size_t side) { sides_.at(side).qp->flush(); }
    void close() {
        const Unlocked unlocked;
        for (Side* const side : {&sides_[0], &others_[0]}) {
            if (side->wire) side->wire->deliver();
        }
        adapter_->close();
        sides_ = {};
        others_ = {};
    }

private:
    struct Side {
        std::shared_ptr<stream::Block> block;
        std::shared_ptr<core::ProtectionDomain> pd;
        std::shared_ptr<core::CompletionQueue> cq;
        std::shared_ptr<core::MemoryRegion> region;
        std::shared_ptr<soft::QueuePair> qp;
        std::shared_ptr<Watcher> watcher = std::make_shared<Watcher>();
        std::shared_ptr<Wire> wire;
    };
    using Sides = std::array<Side, 2>;

    void join(Sides& sides, bool is_slow) {
        std::array<int, 2> fds{};
        if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds.data()) != 0) {
            throw std::runtime_error("no socket pair");
        }
        const auto name = [&sides](std::size_t i) {
            return "unix " + std::to_string(reinterpret_cast<std::uintptr_t>(&sides[i]));
        };
        for (std::size_t i = 0; i < 2; ++i) {
            Side& side = sides[i];
            side.pd = got(adapter_->create_pd());
            side.block = got(stream::Block::create(*side.pd, kMemory));
            side.cq = got(adapter_->create_cq(256));
            side.region = got(side.pd->create_mr());
            auto* const hold = stream::hold_part(side.block, 0, kMemory);
            const auto rights = core::access::kRemoteRead | core::access::kRemoteWrite;
            if (!side.region->register_buffer(hold, rights)) throw std::runtime_error("no region");
            side.qp = std::static_pointer_cast<soft::QueuePair>(
                got(side.pd->create_qp(side.cq, side.cq, nullptr, {}, nullptr)));
            side.wire = std::make_shared<Wire>(base::Descriptor(fds[i]), name(i), name(1 - i),
                                               is_slow && i == 0);
        }
    }
    static std::unique_ptr<soft::Link> link(const Side& side) {
        return std::make_unique<UnixLink>(side.wire);
    }
    [[nodiscard]] iwarp::ConnectionConfig config(std::size_t i) const {
        iwarp::ConnectionConfig config;
        config.is_initiator = i == 0;
        config.crc = crc_;
        config.ird = config.ord = 16;
        return config;
    }
    static void attach(Side& side, const iwarp::ConnectionConfig& config,
                       std::shared_ptr<soft::Meeting> meeting) {
        side.qp->mark_connected();
        auto joined = side.qp->attach(link(side), config, side.watcher, std::move(meeting));
        if (!joined) throw std::runtime_error(joined.error().what);
    }
    static core::Segment segment_of(const Side& side, std::size_t offset, std::size_t size) {
        return {side.region->address() + offset, size, side.region->tokens().local};
    }

    const bool crc_;
    std::shared_ptr<core::Adapter> adapter_;
    Sides sides_;
    Sides others_;
};

long live_links() {
    return base::live_counts[static_cast<std::size_t>(base::LiveKind::link)].load();
}

}  // namespace

void add_link(py::module_& module) {
    py::class_<JoinedPair>(module, "JoinedPair")
        .def(py::init<bool, bool>(), py::kw_only(), py::arg("crc") = false,
             py::arg("direct") = false)
        .def("begin", &JoinedPair::begin)
        .def("deliver", &JoinedPair::deliver)
        .def("outwait", &JoinedPair::outwait)
        .def("is_direct", &JoinedPair::is_direct)
        .def("flush", &JoinedPair::flush)
        .def("fill", &JoinedPair::fill)
        .def("at", &JoinedPair::at)
        .def("post", &JoinedPair::post)
        .def("take", &JoinedPair::take)
        .def("event", &JoinedPair::event)
        .def("has_event", &JoinedPair::has_event)
        .def("disconnect", &JoinedPair::disconnect)
        .def("close", &JoinedPair::close);
    module.def("live_links", live_links);
}

}  // namespace ndv::testing

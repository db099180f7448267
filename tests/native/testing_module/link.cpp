// SPDX-License-Identifier: Apache-2.0
// A link that is no TCP socket: one end of an AF_UNIX socket pair; and two queue pairs of a soft
// adapter that are joined over two of them, without a connector.
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

class UnixLink final : public soft::Link, base::Live<base::LiveKind::link> {
public:
    explicit UnixLink(base::Descriptor end) : end_(std::move(end)) {}

    soft::LinkResult read(const iovec* pieces, std::size_t count) override {
        return receive(pieces, count, 0);
    }
    soft::LinkResult write(const iovec* pieces, std::size_t count, bool /*end*/) override {
        msghdr message{};
        message.msg_iov = const_cast<iovec*>(pieces);
        message.msg_iovlen = count;
        const ssize_t moved = ::sendmsg(end_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (moved < 0) return failed();
        return {soft::LinkResult::Kind::moved, static_cast<std::size_t>(moved), 0};
    }
    soft::LinkResult peek() const override {
        std::byte byte;
        const iovec piece{&byte, 1};
        return receive(&piece, 1, MSG_PEEK);
    }
    void shut_write() override { ::shutdown(end_.get(), SHUT_WR); }
    int descriptor() const override { return end_.get(); }

private:
    soft::LinkResult receive(const iovec* pieces, std::size_t count, int flags) const {
        msghdr message{};
        message.msg_iov = const_cast<iovec*>(pieces);
        message.msg_iovlen = count;
        const ssize_t moved = ::recvmsg(end_.get(), &message, flags | MSG_DONTWAIT);
        if (moved < 0) return failed();
        if (moved == 0) return {soft::LinkResult::Kind::end, 0, 0};
        return {soft::LinkResult::Kind::moved, static_cast<std::size_t>(moved), 0};
    }
    static soft::LinkResult failed() {
        if (errno == EAGAIN) return {soft::LinkResult::Kind::would_block, 0, 0};
        return {soft::LinkResult::Kind::error, 0, errno};
    }

    const base::Descriptor end_;
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
    explicit JoinedPair(bool crc) : adapter_(got(soft::SoftProvider().open({}))) {
        std::array<int, 2> fds{};
        if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds.data()) != 0) {
            throw std::runtime_error("no socket pair");
        }
        for (Side& side : sides_) {
            side.pd = got(adapter_->create_pd());
            side.block = got(stream::Block::create(*side.pd, kMemory));
            side.cq = got(adapter_->create_cq(256));
            side.region = got(side.pd->create_mr());
            auto* const hold = stream::hold_part(side.block, 0, kMemory);
            const auto rights = core::access::kRemoteRead | core::access::kRemoteWrite;
            if (!side.region->register_buffer(hold, rights)) throw std::runtime_error("no region");
            side.qp = std::static_pointer_cast<soft::QueuePair>(
                got(side.pd->create_qp(side.cq, side.cq, nullptr, {}, nullptr)));
        }
        for (std::size_t i = 0; i < 2; ++i) {
            iwarp::ConnectionConfig config;
            config.is_initiator = i == 0;
            config.crc = crc;
            config.ird = config.ord = 16;
            sides_[i].qp->mark_connected();
            auto joined = sides_[i].qp->attach(std::make_unique<UnixLink>(base::Descriptor(fds[i])),
                                               config, sides_[i].watcher);
            if (!joined) throw std::runtime_error(joined.error().what);
        }
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
    void disconnect(std::size_t side) { sides_.at(side).qp->disconnect(); }
    void close() {
        const Unlocked unlocked;
        adapter_->close();
        sides_ = {};
    }

private:
    struct Side {
        std::shared_ptr<stream::Block> block;
        std::shared_ptr<core::ProtectionDomain> pd;
        std::shared_ptr<core::CompletionQueue> cq;
        std::shared_ptr<core::MemoryRegion> region;
        std::shared_ptr<soft::QueuePair> qp;
        std::shared_ptr<Watcher> watcher = std::make_shared<Watcher>();
    };
    static core::Segment segment_of(const Side& side, std::size_t offset, std::size_t size) {
        return {side.region->address() + offset, size, side.region->tokens().local};
    }

    std::shared_ptr<core::Adapter> adapter_;
    std::array<Side, 2> sides_;
};

long live_links() {
    return base::live_counts[static_cast<std::size_t>(base::LiveKind::link)].load();
}

}  // namespace

void add_link(py::module_& module) {
    py::class_<JoinedPair>(module, "JoinedPair")
        .def(py::init<bool>(), py::kw_only(), py::arg("crc"))
        .def("fill", &JoinedPair::fill)
        .def("at", &JoinedPair::at)
        .def("post", &JoinedPair::post)
        .def("take", &JoinedPair::take)
        .def("event", &JoinedPair::event)
        .def("disconnect", &JoinedPair::disconnect)
        .def("close", &JoinedPair::close);
    module.def("live_links", live_links);
}

}  // namespace ndv::testing

// SPDX-License-Identifier: Apache-2.0
// Requests become connections, on the worker's thread.
#include "stream/listener.hpp"

#include <algorithm>
#include <new>
#include <utility>
#include <vector>

#include "base/shortage.hpp"

namespace ndv::stream {
namespace {

// While a request may have to give up its place, the worker looks so often. A grace is counted in
// looks: they come late when the machine is busy, and then the peer may be, too.
constexpr std::chrono::milliseconds kLook{125};
constexpr std::uint64_t kAcceptGrace = 2;
constexpr std::uint64_t kInspectGrace = 8;

}  // namespace

Expected<std::shared_ptr<StreamListener>> StreamListener::create(
    const std::shared_ptr<core::Adapter>& adapter, std::shared_ptr<Worker> worker,
    const core::SocketAddress& address, const StreamOptions& options, std::uint32_t backlog) {
    if (auto mode = mode_of(adapter->info()); !mode) return Unexpected{mode.error()};
    if (auto started = worker->start(); !started) return Unexpected{started.error()};
    auto made = std::make_shared<StreamListener>(adapter, std::move(worker), options, backlog);
    auto listener = adapter->create_listener();
    if (!listener) return Unexpected{listener.error()};
    made->listener_ = std::move(*listener);
    made->listener_->set_on_connect(while_alive(*made, [](StreamListener& self) {
        {
            const base::Lock lock(self.mutex_);
            ++self.arrived_;
        }
        self.wake();
    }));
    {
        const base::Lock lock(made->mutex_);
        made->waking_ = made->prepare_wake();
    }
    if (auto listening = made->listener_->listen(address); !listening) {
        return Unexpected{listening.error()};
    }
    adapter->adopt(made);
    return made;
}

StreamListener::StreamListener(const std::shared_ptr<core::Adapter>& adapter,
                               std::shared_ptr<Worker> worker, const StreamOptions& options,
                               std::uint32_t backlog)
    : adapter_(adapter),
      worker_(std::move(worker)),
      options_(options),
      backlog_(std::max(1U, backlog)) {}

StreamListener::~StreamListener() {
    if (!is_foreign()) close();
}

void StreamListener::start(OnInspect on_inspect, OnAbort on_abort, OnReady on_ready) {
    {
        const base::Lock lock(mutex_);
        on_inspect_ = std::move(on_inspect);
        on_abort_ = std::move(on_abort);
        on_ready_ = std::move(on_ready);
        is_started_ = true;
    }
    wake();
}

Worker::Prepared StreamListener::prepare_wake() {
    return Worker::prepare(while_alive(*this, [](StreamListener& self) {
        {
            const base::Lock lock(self.mutex_);
            if (self.waking_.empty()) self.waking_ = self.prepare_wake();
        }
        self.take_requests();
    }));
}

// Takes no memory; nothing when the worker has not begun with the last one.
void StreamListener::wake() {
    const base::Lock lock(mutex_);
    worker_->post(std::move(waking_));
}

// Over the backlog requests wait unanswered, in the listener's own queue.
void StreamListener::take_requests() {
    while (find_place()) {
        std::uint64_t arrived = 0;
        {
            const base::Lock lock(mutex_);
            arrived = arrived_;
        }
        auto taken = listener_->take_connector(std::chrono::nanoseconds::zero());
        if (!taken || *taken == nullptr) {
            // Some may have left the queue by themselves.
            const base::Lock lock(mutex_);
            taken_ = std::max(taken_, arrived);
            return;
        }
        const std::shared_ptr<core::Connector> connector = std::move(*taken);
        OnInspect on_inspect;
        std::uint64_t id = 0;
        {
            const base::Lock lock(mutex_);
            ++taken_;
            on_inspect = on_inspect_;
            if (on_inspect) {
                id = next_key_++;
                inspected_[id] = {connector, now()};
            }
        }
        if (!on_inspect) {
            make(connector, 0);
            continue;
        }
        auto local = connector->local_address();
        auto peer = connector->peer_address();
        on_inspect(id, local ? *local : core::SocketAddress{},
                   peer ? *peer : core::SocketAddress{});
        // Behind the inspection, which it takes back.
        connector->set_on_withdrawn(
            while_alive(*this, [id](StreamListener& self) { self.withdraw(id); }));
    }
}

// The peer has taken back a request that waits for its answer.
void StreamListener::withdraw(std::uint64_t id) {
    std::shared_ptr<core::Connector> connector;  // goes without the mutex
    OnAbort on_abort;
    {
        const base::Lock lock(mutex_);
        const auto found = inspected_.find(id);
        if (found == inspected_.end()) return;
        connector = std::move(found->second.connector);
        inspected_.erase(found);
        on_abort = on_abort_;
    }
    if (on_abort) on_abort(id);
    wake();  // there is room in the backlog
}

// Ends peers whose time is over and, while all places are taken and a request waits, peers that
// have been silent longest. False: there is no place, or nothing is to be taken.
bool StreamListener::find_place() {
    while (!is_closed()) {
        Evicted evicted;
        OnAbort on_abort;
        {
            const base::Lock lock(mutex_);
            if (!is_started_) return false;
            if (!evict(evicted)) {
                if (!making_.empty() || !inspected_.empty()) look_again();
                return has_place() && !is_backlog_full();
            }
            if (evicted.id != 0) on_abort = on_abort_;
        }
        if (evicted.stream) evicted.stream->abort();
        if (evicted.connector) static_cast<void>(evicted.connector->reject({}));
        if (on_abort) on_abort(evicted.id);
    }
    return false;
}

// Takes the place of a peer that has to give way, if there is one.
bool StreamListener::evict(Evicted& out) {
    const Since here = now();
    const bool is_wanted = arrived_ > taken_ && !has_place() && !is_backlog_full();
    const auto gives_way = [&](const Since& since, Clock::duration time, std::uint64_t grace) {
        return here.at - since.at >= time || (is_wanted && here.look - since.look >= grace);
    };
    if (const auto oldest = making_.begin();
        oldest != making_.end() && gives_way(oldest->second.since, kAcceptTime, kAcceptGrace)) {
        out = {std::move(oldest->second.stream), nullptr, oldest->second.id};
        making_.erase(oldest);
        return true;
    }
    if (const auto oldest = inspected_.begin();
        oldest != inspected_.end() &&
        gives_way(oldest->second.since, kInspectTime, kInspectGrace)) {
        out = {nullptr, std::move(oldest->second.connector), oldest->first};
        inspected_.erase(oldest);
        return true;
    }
    return false;
}

void StreamListener::look_again() {
    if (will_look_) return;
    worker_->post_at(Clock::now() + kLook, while_alive(*this, [](StreamListener& self) {
                         {
                             const base::Lock lock(self.mutex_);
                             self.will_look_ = false;
                             ++self.looks_;
                         }
                         self.take_requests();
                     }));
    will_look_ = true;
}

void StreamListener::inspect_complete(std::uint64_t id, bool accepts) {
    std::shared_ptr<core::Connector> connector;
    {
        const base::Lock lock(mutex_);
        const auto found = inspected_.find(id);
        if (found == inspected_.end()) return;
        connector = std::move(found->second.connector);
        inspected_.erase(found);
    }
    worker_->post(while_alive(*this, [connector, id, accepts](StreamListener& self) {
        if (accepts && !self.is_closed()) {
            self.make(connector, id);
        } else {
            static_cast<void>(connector->reject({}));
        }
        self.take_requests();
    }));
}

void StreamListener::make(const std::shared_ptr<core::Connector>& connector, std::uint64_t id) {
    const auto adapter = adapter_.lock();
    std::shared_ptr<Stream> stream;
    std::uint64_t key = 0;
    {
        const base::Lock lock(mutex_);
        if (!adapter || is_closed()) return;  // the connector closes: a reject
        stream = std::make_shared<Stream>(adapter, worker_, options_);
        key = next_key_++;
        making_[key] = {stream, id, now()};
    }
    try {
        adapter->adopt(stream);
        stream->inspect_id_.store(id, std::memory_order_relaxed);
        stream->set_on_event(while_alive(*this, [key](StreamListener& self, std::uint32_t events) {
            self.on_made(key, events);
        }));
        if (stream->start_accept(connector, kAcceptTime)) return;
    } catch (const std::bad_alloc&) {
        base::with_memory([&] { stream->abort(); });
    }
    // Not a stream, or gone already, or there is no memory for it.
    base::with_memory([&] {
        static_cast<void>(connector->reject({}));
        connector->close();
        on_made(key, event::kBroken);
    });
}

void StreamListener::on_made(std::uint64_t key, std::uint32_t events) {
    if ((events & (event::kConnected | event::kBroken)) == 0) return;
    Made made;
    OnAbort on_abort;
    OnReady on_ready;
    const bool is_good = (events & event::kConnected) != 0;
    {
        const base::Lock lock(mutex_);
        const auto found = making_.find(key);
        if (found == making_.end()) return;
        // Once more from here where there is no memory.
        if (is_good && !is_closed()) {
            on_ready = on_ready_;
            ready_.push_back(found->second.stream);
            if (readiness_) readiness_->set(true, true);
            available_.notify_one();
        } else if (found->second.id != 0) {
            on_abort = on_abort_;
        }
        made = std::move(found->second);
        making_.erase(found);
    }
    if (on_ready) on_ready();
    if (on_abort) on_abort(made.id);
    if (!is_good) wake();
}

Expected<std::shared_ptr<Stream>> StreamListener::accept(std::chrono::nanoseconds timeout) {
    std::shared_ptr<Stream> taken;
    {
        base::UniqueLock lock(mutex_);
        const auto until = std::chrono::steady_clock::now() + timeout;
        while (ready_.empty()) {
            if (is_closed()) {
                return fail(Status::file_forced_closed, "accept: the listening socket is closed");
            }
            if (available_.wait_until(lock.native(), until) == std::cv_status::timeout) break;
        }
        if (ready_.empty()) return taken;
        taken = std::move(ready_.front());
        ready_.pop_front();
        if (readiness_) readiness_->set(!ready_.empty(), true);
    }
    taken->set_on_event({});
    wake();  // there is room in the backlog
    return taken;
}

Expected<std::shared_ptr<Readiness>> StreamListener::descriptor() {
    const base::Lock lock(mutex_);
    if (!readiness_) {
        auto made = Readiness::create();
        if (!made) return Unexpected{made.error()};
        readiness_ = std::make_shared<Readiness>(std::move(*made));
        readiness_->set(!ready_.empty() || is_closed(), true);
    }
    return readiness_;
}

Expected<core::SocketAddress> StreamListener::local_address() const {
    return listener_->local_address();
}

void StreamListener::set_options(const StreamOptions& options) {
    const base::Lock lock(mutex_);
    options_ = options;
}

void StreamListener::set_backlog(std::uint32_t backlog) {
    {
        const base::Lock lock(mutex_);
        backlog_ = std::max(1U, backlog);
    }
    wake();
}

void StreamListener::do_close() {
    std::vector<std::shared_ptr<Stream>> dropped;
    std::map<std::uint64_t, Inspected> inspected;
    OnReady on_ready;
    {
        const base::Lock lock(mutex_);
        for (auto& [key, made] : making_) dropped.push_back(std::move(made.stream));
        for (auto& stream : ready_) dropped.push_back(std::move(stream));
        making_.clear();
        ready_.clear();
        inspected.swap(inspected_);
        on_inspect_ = nullptr;
        on_abort_ = nullptr;
        on_ready.swap(on_ready_);
        if (readiness_) readiness_->set(true, true);
        available_.notify_all();
    }
    for (const auto& stream : dropped) stream->abort();
    if (listener_) listener_->close();
    if (on_ready) on_ready();  // accept() says that it is closed
}

}  // namespace ndv::stream

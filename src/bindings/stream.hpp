// SPDX-License-Identifier: Apache-2.0
// Stream sockets as Python sees them: what ndverbs.socket and ndverbs.wsk stand on.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <optional>

#include "bindings/connection.hpp"
#include "bindings/python/errors.hpp"
#include "bindings/python/handle.hpp"
#include "stream/listener.hpp"
#include "stream/readiness.hpp"
#include "stream/stream.hpp"

namespace ndv::bindings {

// A socket that may have a descriptor. That stays until close(): a loop that watches it when the
// adapter closes sees it readable, and the call that follows says why.
template <typename Native>
class SocketHandle : public Handle<Native> {
public:
    using Handle<Native>::Handle;

    void close() {
        Handle<Native>::close();
        shown_ = nullptr;
    }
    [[nodiscard]] int descriptor() {
        if (shown_ == nullptr || this->adapter()->is_foreign()) {
            shown_ = value_or_raise(this->get().descriptor());
        }
        return shown_->descriptor();
    }

protected:
    std::shared_ptr<stream::Readiness> shown_;
};

class Stream final : public SocketHandle<stream::Stream> {
public:
    Stream(std::shared_ptr<stream::Stream> native, std::shared_ptr<AdapterState> adapter)
        : SocketHandle("socket", std::move(native), std::move(adapter)) {}

    // Seconds; none: calls wait without a limit; 0: they never wait.
    std::optional<double> timeout;
};

class StreamListener final : public SocketHandle<stream::StreamListener> {
public:
    StreamListener(std::shared_ptr<stream::StreamListener> native,
                   std::shared_ptr<AdapterState> adapter)
        : SocketHandle("listening socket", std::move(native), std::move(adapter)) {}

    // A server in a loop would be told again and again that its adapter has gone: once is enough.
    void hush() {
        if (shown_ && peek() == nullptr) shown_->set(false, true);
    }
};

// A request of ndverbs.wsk: a send or receive under way.
struct StreamTransfer {
    std::shared_ptr<stream::Stream> stream;
    std::shared_ptr<stream::Transfer> transfer;
    std::shared_ptr<AdapterState> adapter;
};

// Received bytes in the ring: looked at, until take() or consume() decides; taken ones stay there
// until release(), or until the last reference to this goes.
class StreamView {
public:
    StreamView(std::shared_ptr<stream::Stream> stream, const stream::View& view,
               std::shared_ptr<AdapterState> adapter, bool is_taken)
        : stream_(std::move(stream)),
          view_(view),
          adapter_(std::move(adapter)),
          is_taken_(is_taken) {}
    StreamView(const StreamView&) = delete;
    StreamView& operator=(const StreamView&) = delete;
    ~StreamView() { release(); }

    void release() {
        if (std::exchange(is_taken_, false) && !stream_->is_foreign()) stream_->release(view_);
    }
    void take();
    void consume(std::uint32_t length) {
        if (!is_taken_) stream_->consume(length);
    }
    [[nodiscard]] bool is_taken() const { return is_taken_; }
    [[nodiscard]] std::size_t size() const { return view_.length; }
    [[nodiscard]] const std::byte* data() const { return stream_->data_of(view_); }

private:
    const std::shared_ptr<stream::Stream> stream_;
    const stream::View view_;
    const std::shared_ptr<AdapterState> adapter_;
    bool is_taken_;
};

// The export of a caller's object for as long as a request names its memory.
[[nodiscard]] std::shared_ptr<stream::Transfer> transfer_for(PyObject* object, bool is_written,
                                                             const char* call);
using Submit = Expected<void> (stream::Stream::*)(const std::shared_ptr<stream::Transfer>&);
[[nodiscard]] std::unique_ptr<StreamTransfer> submit(const Stream& self, Submit call,
                                                     std::shared_ptr<stream::Transfer> transfer);

[[nodiscard]] std::unique_ptr<Stream> create_stream(const std::shared_ptr<AdapterState>& adapter,
                                                    const stream::StreamOptions& options);
[[nodiscard]] std::unique_ptr<StreamListener> create_stream_listener(
    const std::shared_ptr<AdapterState>& adapter, const py::object& address,
    const stream::StreamOptions& options, std::uint32_t backlog, const py::object& on_inspect,
    const py::object& on_abort, const py::object& on_ready);

void bind_stream(py::module_& module);
void bind_stream_mappings(py::class_<Stream>& cls);
void attach_hot_stream_calls(const py::handle& cls);
void bind_bench_stream(py::class_<Stream>& cls);

}  // namespace ndv::bindings

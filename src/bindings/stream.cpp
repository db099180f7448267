// SPDX-License-Identifier: Apache-2.0
// Streams: their making, and their cold calls.
#include "bindings/stream.hpp"

#include <pybind11/stl.h>

#include <utility>
#include <vector>

#include "bindings/module.hpp"
#include "bindings/python/buffer.hpp"
#include "bindings/python/collected.hpp"
#include "bindings/python/errors.hpp"

namespace ndv::bindings {
namespace {

const char* phase_name(stream::Phase phase) {
    switch (phase) {
        case stream::Phase::fresh:
            return "fresh";
        case stream::Phase::connecting:
            return "connecting";
        case stream::Phase::accepting:
            return "accepting";
        case stream::Phase::connected:
            return "connected";
        case stream::Phase::over:
            return "over";
    }
    return "unknown";
}

void start_connect(const Stream& self, const py::object& local, const py::object& peer,
                   std::optional<double> timeout) {
    core::ConnectParameters parameters;
    set_source(parameters, local);
    parameters.peer = resolve_address(peer);
    parameters.timeout = timeout_duration(timeout);
    check_or_raise(self.call_without_gil(
        [&](auto& native) { return native.start_connect(std::move(parameters)); }));
}

// A call that waits for a stream.
auto waits(bool (stream::Stream::*call)(std::chrono::nanoseconds)) {
    return [call](const Stream& self, std::optional<double> timeout) {
        const auto native = self.share();
        return wait_in_slices(Deadline(timeout),
                              [&](auto slice) { return (*native.*call)(slice); });
    };
}

void raise_failure(const Stream& self) {
    if (const auto failure = self.get().failure()) raise(*failure);
}

std::unique_ptr<StreamTransfer> submit_send(const Stream& self, const py::object& buffer) {
    static_cast<void>(self.get());
    return submit(self, &stream::Stream::submit_send, transfer_for(buffer.ptr(), false, "send"));
}

std::unique_ptr<StreamTransfer> submit_receive(const Stream& self, const py::object& buffer,
                                               bool is_all, bool is_drain) {
    static_cast<void>(self.get());
    std::shared_ptr<stream::Transfer> transfer = is_drain
                                                     ? std::make_shared<stream::Transfer>()
                                                     : transfer_for(buffer.ptr(), true, "receive");
    transfer->is_all = is_all;
    transfer->is_drain = is_drain;
    return submit(self, &stream::Stream::submit_receive, std::move(transfer));
}

std::unique_ptr<Operation> start_disconnect(const Stream& self) {
    return std::make_unique<Operation>(value_or_raise(self.call_without_gil(
                                           [](auto& native) { return native.start_disconnect(); })),
                                       self.adapter(), [] {});
}

std::unique_ptr<StreamView> view_of(const Stream& self, const stream::View& view, bool is_taken) {
    if (view.length == 0) return nullptr;
    return std::make_unique<StreamView>(self.peek(), view, self.adapter(), is_taken);
}

// Runs on the callback thread; None takes it off.
void set_event_callback(Stream& self, const py::object& function) {
    const auto native = self.share();
    if (function.is_none()) {
        native->set_on_event({});
        return;
    }
    const auto shared = SharedObject::make(function);
    self.set_calls({shared});
    native->set_on_event(queued(self.adapter()->with_callbacks(), shared,
                                [](std::uint32_t events) { return py::int_(events); }));
}

// On the callback thread, as an event without a bit.
template <typename Socket>
void call_soon(const Socket& self, const py::object& function) {
    queued(self.adapter()->with_callbacks(), SharedObject::make(function),
           [] { return py::int_(0); })();
}

void bind_views(py::module_& module) {
    py::class_<StreamView>(module, "StreamView", py::is_final(), py::buffer_protocol())
        .def_buffer([](StreamView& self) {
            return py::buffer_info(const_cast<std::byte*>(self.data()), 1,
                                   py::format_descriptor<std::uint8_t>::format(), 1,
                                   {static_cast<py::ssize_t>(self.size())}, {py::ssize_t{1}}, true);
        })
        .def("release", &StreamView::release)
        .def("take", &StreamView::take)
        .def("consume", &StreamView::consume, py::arg("length"))
        .def_property_readonly("is_taken", &StreamView::is_taken)
        .def("__len__", &StreamView::size);
    py::class_<StreamTransfer>(module, "StreamTransfer", py::is_final())
        .def_property_readonly("bytes_transferred",
                               [](const StreamTransfer& self) {
                                   return self.transfer->result.load(std::memory_order_acquire);
                               })
        .def_property_readonly(
            "operation",
            [](const StreamTransfer& self) {
                return std::make_unique<Operation>(
                    self.transfer->operation, self.adapter,
                    [stream = self.stream, transfer = self.transfer] { stream->cancel(transfer); });
            })
        .def(
            "wait",
            [](const StreamTransfer& self, std::optional<double> timeout) {
                const auto transfer = self.transfer;
                const auto stream = self.stream;
                return wait_in_slices(Deadline(timeout), [&](auto slice) {
                    return stream->wait_done(*transfer, slice) && transfer->operation->wait(slice);
                });
            },
            py::arg("timeout"))
        .def("cancel", [](const StreamTransfer& self) {
            const auto keep = self;
            const Released released;
            keep.stream->cancel(keep.transfer);
        });
}

using Native = stream::Stream;

void bind_life(py::class_<Stream>& cls) {
    cls.def("_start_connect", start_connect, py::arg("local").none(true), py::arg("peer"),
            py::arg("timeout"))
        .def("wait_connected", waits(&Native::wait_connected), py::arg("timeout"))
        .def(
            "shutdown",
            [](const Stream& self, int how) {
                check_or_raise(self.call_without_gil([how](auto& native) {
                    return native.shutdown(how == 0   ? stream::How::read
                                           : how == 1 ? stream::How::write
                                                      : stream::How::both);
                }));
            },
            py::arg("how"))
        .def("_start_disconnect", start_disconnect)
        .def(
            "abort",
            [](const Stream& self) { self.call_without_gil([](auto& native) { native.abort(); }); })
        .def("fileno", &Stream::descriptor)
        .def("set_event_callback", set_event_callback, py::arg("function").none(true))
        .def("_call_soon", call_soon<Stream>, py::arg("function"))
        .def("set_options", native_call<Stream>(&Native::set_options), py::arg("options"))
        .def("set_keepalive", native_call<Stream>(&Native::set_keepalive), py::arg("interval"))
        .def("set_aborts_on_close", native_call<Stream>(&Native::set_aborts_on_close),
             py::arg("aborts"));
}

void bind_data(py::class_<Stream>& cls) {
    cls.def("wait_readable", waits(&Native::wait_readable), py::arg("timeout"))
        .def("wait_writable", waits(&Native::wait_writable), py::arg("timeout"))
        .def_readwrite("timeout", &Stream::timeout)
        .def("submit_send", submit_send, py::arg("buffer"))
        .def("submit_receive", submit_receive, py::arg("buffer"), py::kw_only(),
             py::arg("is_all") = false, py::arg("is_drain") = false)
        .def(
            "take",
            [](const Stream& self, std::uint32_t most) {
                return view_of(self, value_or_raise(self.get().take(most)), true);
            },
            py::arg("most"))
        .def(
            "look",
            [](const Stream& self, std::uint32_t most) {
                return view_of(self, self.get().look(most), false);
            },
            py::arg("most"));
}

void bind_state(py::class_<Stream>& cls) {
    cls.def("raise_failure", raise_failure)
        .def_property_readonly("phase",
                               [](const Stream& self) { return phase_name(self.get().phase()); })
        .def_property_readonly("error",
                               [](const Stream& self) {
                                   const auto failure = self.get().failure();
                                   return failure ? failure->os_error : 0;
                               })
        .def_property_readonly("readable", native_call<Stream>(&Native::readable))
        .def_property_readonly("is_peer_shut", native_call<Stream>(&Native::is_peer_shut))
        .def_property_readonly("local_address", address_of<Stream, &Native::local_address>)
        .def_property_readonly("peer_address", address_of<Stream, &Native::peer_address>)
        .def_property_readonly("ideal_send_backlog",
                               native_call<Stream>(&Native::ideal_send_backlog))
        .def_property_readonly("send_backlog", native_call<Stream>(&Native::send_backlog))
        .def_property_readonly("is_short_of_memory",
                               native_call<Stream>(&Native::is_short_of_memory))
        .def_property_readonly("inspect_id", native_call<Stream>(&Native::inspect_id))
        .def_property_readonly("memory_use", native_call<Stream>(&Native::memory_use));
}

void bind_listener_class(py::module_& module) {
    py::class_<StreamListener> cls(module, "StreamListener", py::is_final(),
                                   collected<StreamListener>());
    bind_handle(cls);
    using NativeListener = stream::StreamListener;
    cls.def(
           "accept",
           [](StreamListener& self, std::optional<double> timeout) -> std::unique_ptr<Stream> {
               self.hush();
               const auto native = self.share();
               Expected<std::shared_ptr<stream::Stream>> taken = std::shared_ptr<stream::Stream>();
               static_cast<void>(wait_in_slices(Deadline(timeout), [&](auto slice) {
                   taken = native->accept(slice);
                   return !taken || *taken != nullptr;
               }));
               auto stream = value_or_raise(std::move(taken));
               if (stream == nullptr) return nullptr;
               self.adapter()->streams()->add(stream);
               return std::make_unique<Stream>(std::move(stream), self.adapter());
           },
           py::arg("timeout"))
        .def("_call_soon", call_soon<StreamListener>, py::arg("function"))
        .def("fileno", &StreamListener::descriptor)
        .def("inspect_complete", native_call<StreamListener>(&NativeListener::inspect_complete),
             py::arg("id"), py::arg("accepts"))
        .def("set_options", native_call<StreamListener>(&NativeListener::set_options),
             py::arg("options"))
        .def("set_backlog", native_call<StreamListener>(&NativeListener::set_backlog),
             py::arg("backlog"))
        .def_property_readonly("local_address",
                               address_of<StreamListener, &NativeListener::local_address>);
}

void bind_options(py::module_& module) {
    using stream::StreamOptions;
    py::class_<StreamOptions>(module, "StreamOptions", py::is_final())
        .def(py::init<>())
        .def(py::init<const StreamOptions&>(), py::arg("other"))
        .def_readwrite("receive_buffer", &StreamOptions::receive_buffer)
        .def_readwrite("send_buffer", &StreamOptions::send_buffer)
        .def_readwrite("receive_queue_depth", &StreamOptions::receive_queue_depth)
        .def_readwrite("send_queue_depth", &StreamOptions::send_queue_depth)
        .def_readwrite("inline_size", &StreamOptions::inline_size)
        .def_readwrite("iomap_entries", &StreamOptions::iomap_entries)
        .def_readwrite("keepalive", &StreamOptions::keepalive_s);
}

}  // namespace

void StreamView::take() {
    if (is_taken_) return;
    // At the same place there are at least as many.
    is_taken_ = value_or_raise(stream_->take(view_.length, &view_)).length > 0;
    if (is_taken_) return;
    raise(Status::invalid_device_state, "retain: another call received the data meanwhile");
}

std::shared_ptr<stream::Transfer> transfer_for(PyObject* object, bool is_written,
                                               const char* call) {
    auto transfer = std::make_shared<stream::Transfer>();
    transfer->hold = export_for_transfer(call, object, is_written);
    transfer->data = transfer->hold->data();
    transfer->length = transfer->hold->size();
    return transfer;
}

std::unique_ptr<StreamTransfer> submit(const Stream& self, Submit call,
                                       std::shared_ptr<stream::Transfer> transfer) {
    const auto native = self.share();
    check_or_raise(without_gil([&] { return (*native.*call)(transfer); }));
    return std::make_unique<StreamTransfer>(
        StreamTransfer{native, std::move(transfer), self.adapter()});
}

std::unique_ptr<Stream> create_stream(const std::shared_ptr<AdapterState>& adapter,
                                      const stream::StreamOptions& options) {
    const std::shared_ptr<stream::Worker>& worker = adapter->streams();
    auto native = std::make_shared<stream::Stream>(adapter->get(), worker, options);
    adapter->get()->adopt(native);
    worker->add(native);
    return std::make_unique<Stream>(std::move(native), adapter);
}

std::unique_ptr<StreamListener> create_stream_listener(
    const std::shared_ptr<AdapterState>& adapter, const py::object& address,
    const stream::StreamOptions& options, std::uint32_t backlog, const py::object& on_inspect,
    const py::object& on_abort, const py::object& on_ready) {
    const std::shared_ptr<stream::Worker> worker = adapter->streams();
    const core::SocketAddress local = resolve_address(address);
    const std::shared_ptr<core::Adapter> native = adapter->get();
    auto listener = value_or_raise(without_gil(
        [&] { return stream::StreamListener::create(native, worker, local, options, backlog); }));
    std::vector<std::weak_ptr<SharedObject>> calls;
    const auto set = [&](auto& call, const py::object& function, auto convert) {
        if (function.is_none()) return;
        auto shared = SharedObject::make(function);
        calls.push_back(shared);
        call = queued(adapter->with_callbacks(), std::move(shared), convert);
    };
    stream::StreamListener::OnInspect inspect;
    stream::StreamListener::OnAbort abort;
    stream::StreamListener::OnReady ready;
    set(inspect, on_inspect,
        [](std::uint64_t id, const core::SocketAddress& near, const core::SocketAddress& peer) {
            return py::make_tuple(id, to_pair(near), to_pair(peer));
        });
    set(abort, on_abort, [](std::uint64_t id) { return py::int_(id); });
    set(ready, on_ready, [] { return py::object(); });
    listener->start(std::move(inspect), std::move(abort), std::move(ready));
    auto handle = std::make_unique<StreamListener>(std::move(listener), adapter);
    handle->set_calls(std::move(calls));
    return handle;
}

void bind_stream(py::module_& module) {
    bind_options(module);
    bind_views(module);
    py::class_<Stream> cls(module, "Stream", py::is_final(), collected<Stream>());
    bind_handle(cls);
    bind_repr(cls, [](const Stream& self) { return phase_name(self.get().phase()); });
    bind_life(cls);
    bind_data(cls);
    bind_state(cls);
    bind_stream_mappings(cls);
    attach_hot_stream_calls(cls);
    bind_bench_stream(cls);
    bind_listener_class(module);
}

}  // namespace ndv::bindings

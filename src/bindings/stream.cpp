// SPDX-License-Identifier: Apache-2.0
// Streams: their making, and their cold calls.
#include "bindings/stream.hpp"

#include <pybind11/stl.h>

#include <string>
#include <utility>
#include <vector>

#include "bindings/module.hpp"
#include "bindings/python/buffer.hpp"
#include "bindings/python/collected.hpp"
#include "bindings/python/errors.hpp"

namespace ndv::bindings {
namespace {

py::tuple to_pair(const core::SocketAddress& address) {
    if (address.length == 0) return py::make_tuple("", 0);
    return py::make_tuple(address.host(), address.port());
}

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
    if (py::isinstance<SharedEndpoint>(local)) {
        parameters.endpoint = local.cast<const SharedEndpoint&>().share();
    } else if (!local.is_none()) {
        parameters.local = resolve_address(local);
    }
    parameters.peer = resolve_address(peer);
    parameters.timeout = timeout_duration(timeout);
    const auto native = self.share();
    check_or_raise(without_gil([&] { return native->start_connect(std::move(parameters)); }));
}

template <typename Call>
bool wait(const Stream& self, std::optional<double> timeout, Call call) {
    const auto native = self.share();
    return wait_in_slices(Deadline(timeout), [&](auto slice) { return call(*native, slice); });
}

void raise_failure(const Stream& self) {
    if (const auto failure = self.get().failure()) raise(*failure);
}

std::unique_ptr<StreamTransfer> submit(const Stream& self, const py::object& buffer, bool is_send,
                                       bool is_all, bool is_drain) {
    const auto native = self.share();
    std::shared_ptr<stream::Transfer> transfer =
        is_drain ? std::make_shared<stream::Transfer>()
                 : transfer_for(buffer.ptr(), !is_send, is_send ? "send" : "receive");
    transfer->is_all = is_all;
    transfer->is_drain = is_drain;
    check_or_raise(without_gil([&] {
        return is_send ? native->submit_send(transfer) : native->submit_receive(transfer);
    }));
    return std::make_unique<StreamTransfer>(
        StreamTransfer{native, std::move(transfer), self.adapter()});
}

std::unique_ptr<Operation> operation_of(const std::shared_ptr<core::Operation>& native,
                                        const std::shared_ptr<AdapterState>& adapter,
                                        std::function<void()> abandon) {
    return std::make_unique<Operation>(native, adapter, std::move(abandon));
}

std::unique_ptr<Operation> start_disconnect(const Stream& self) {
    const auto native = self.share();
    auto started = value_or_raise(without_gil([&] { return native->start_disconnect(); }));
    return operation_of(started, self.adapter(), [] {});
}

std::unique_ptr<StreamView> take(const Stream& self, std::uint32_t most) {
    const auto native = self.share();
    const stream::View view = value_or_raise(native->take(most));
    if (view.length == 0) return nullptr;
    return std::make_unique<StreamView>(native, view, self.adapter(), true);
}

std::unique_ptr<StreamView> look(const Stream& self, std::uint32_t most) {
    const auto native = self.share();
    const stream::View view = native->look(most);
    if (view.length == 0) return nullptr;
    return std::make_unique<StreamView>(native, view, self.adapter(), false);
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
    native->set_on_event(
        [callbacks = self.adapter()->with_callbacks(), shared](std::uint32_t events) {
            queue_callback(callbacks,
                           [shared, events] { call_and_report(shared->get(), py::int_(events)); });
        });
}

// On the callback thread, as an event without a bit.
void call_soon(const std::shared_ptr<AdapterState>& adapter, const py::object& function) {
    queue_callback(adapter->with_callbacks(), [shared = SharedObject::make(function)] {
        call_and_report(shared->get(), py::int_(0));
    });
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
                return operation_of(
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

void bind_waits(py::class_<Stream>& cls) {
    using Native = stream::Stream;
    cls.def(
           "wait_connected",
           [](const Stream& self, std::optional<double> timeout) {
               return wait(self, timeout,
                           [](Native& native, auto slice) { return native.wait_connected(slice); });
           },
           py::arg("timeout"))
        .def(
            "wait_readable",
            [](const Stream& self, std::optional<double> timeout) {
                return wait(self, timeout,
                            [](Native& native, auto slice) { return native.wait_readable(slice); });
            },
            py::arg("timeout"))
        .def(
            "wait_writable",
            [](const Stream& self, std::optional<double> timeout) {
                return wait(self, timeout,
                            [](Native& native, auto slice) { return native.wait_writable(slice); });
            },
            py::arg("timeout"));
}

void bind_listener_class(py::module_& module) {
    py::class_<StreamListener> cls(module, "StreamListener", py::is_final(),
                                   collected<StreamListener>());
    bind_handle(cls);
    cls.def(
           "accept",
           [](StreamListener& self, std::optional<double> timeout) -> std::unique_ptr<Stream> {
               self.hush();
               const auto native = self.share();
               std::optional<Expected<std::shared_ptr<stream::Stream>>> taken;
               static_cast<void>(wait_in_slices(Deadline(timeout), [&](auto slice) {
                   taken = native->accept(slice);
                   return !*taken || **taken != nullptr;
               }));
               auto stream = value_or_raise(std::move(*taken));
               if (stream == nullptr) return nullptr;
               self.adapter()->streams()->add(stream);
               return std::make_unique<Stream>(std::move(stream), self.adapter());
           },
           py::arg("timeout"))
        .def(
            "_call_soon",
            [](const StreamListener& self, const py::object& function) {
                call_soon(self.adapter(), function);
            },
            py::arg("function"))
        .def("fileno", &StreamListener::descriptor)
        .def(
            "inspect_complete",
            [](const StreamListener& self, std::uint64_t id, bool accepts) {
                self.get().inspect_complete(id, accepts);
            },
            py::arg("id"), py::arg("accepts"))
        .def(
            "set_options",
            [](const StreamListener& self, const stream::StreamOptions& options) {
                self.get().set_options(options);
            },
            py::arg("options"))
        .def(
            "set_backlog",
            [](const StreamListener& self, std::uint32_t backlog) {
                self.get().set_backlog(backlog);
            },
            py::arg("backlog"))
        .def_property_readonly("local_address", [](const StreamListener& self) {
            return to_pair(value_or_raise(self.get().local_address()));
        });
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
    stream::StreamListener::OnInspect inspect;
    stream::StreamListener::OnAbort abort;
    stream::StreamListener::OnReady ready;
    std::vector<std::weak_ptr<SharedObject>> calls;
    const auto share = [&calls](const py::object& function) {
        auto shared = SharedObject::make(function);
        calls.push_back(shared);
        return shared;
    };
    if (!on_inspect.is_none()) {
        inspect = [callbacks = adapter->with_callbacks(), shared = share(on_inspect)](
                      std::uint64_t id, const core::SocketAddress& near,
                      const core::SocketAddress& peer) {
            queue_callback(callbacks, [shared, id, near, peer] {
                call_and_report(shared->get(), py::make_tuple(id, to_pair(near), to_pair(peer)));
            });
        };
    }
    if (!on_abort.is_none()) {
        abort = [callbacks = adapter->with_callbacks(),
                 shared = share(on_abort)](std::uint64_t id) {
            queue_callback(callbacks,
                           [shared, id] { call_and_report(shared->get(), py::int_(id)); });
        };
    }
    if (!on_ready.is_none()) {
        ready = [callbacks = adapter->with_callbacks(), shared = share(on_ready)] {
            queue_callback(callbacks, [shared] { call_and_report(shared->get()); });
        };
    }
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
    bind_waits(cls);
    cls.def("_start_connect", start_connect, py::arg("local").none(true), py::arg("peer"),
            py::arg("timeout"))
        .def(
            "shutdown",
            [](const Stream& self, int how) {
                const auto native = self.share();
                check_or_raise(without_gil([&] {
                    return native->shutdown(how == 0   ? stream::How::read
                                            : how == 1 ? stream::How::write
                                                       : stream::How::both);
                }));
            },
            py::arg("how"))
        .def("_start_disconnect", start_disconnect)
        .def("abort",
             [](const Stream& self) {
                 const auto native = self.share();
                 const Released released;
                 native->abort();
             })
        .def(
            "submit_send",
            [](const Stream& self, const py::object& buffer) {
                return submit(self, buffer, true, false, false);
            },
            py::arg("buffer"))
        .def(
            "submit_receive",
            [](const Stream& self, const py::object& buffer, bool is_all, bool is_drain) {
                return submit(self, buffer, false, is_all, is_drain);
            },
            py::arg("buffer"), py::kw_only(), py::arg("is_all") = false,
            py::arg("is_drain") = false)
        .def("take", take, py::arg("most"))
        .def("look", look, py::arg("most"))
        .def("fileno", &Stream::descriptor)
        .def("set_event_callback", set_event_callback, py::arg("function").none(true))
        .def(
            "_call_soon",
            [](const Stream& self, const py::object& function) {
                call_soon(self.adapter(), function);
            },
            py::arg("function"))
        .def(
            "set_options",
            [](const Stream& self, const stream::StreamOptions& options) {
                self.get().set_options(options);
            },
            py::arg("options"))
        .def(
            "set_keepalive",
            [](const Stream& self, double interval) { self.get().set_keepalive(interval); },
            py::arg("interval"))
        .def(
            "set_aborts_on_close",
            [](const Stream& self, bool aborts) { self.get().set_aborts_on_close(aborts); },
            py::arg("aborts"))
        .def("raise_failure", raise_failure)
        .def_readwrite("timeout", &Stream::timeout)
        .def_property_readonly("phase",
                               [](const Stream& self) { return phase_name(self.get().phase()); })
        .def_property_readonly("error",
                               [](const Stream& self) {
                                   const auto failure = self.get().failure();
                                   return failure ? failure->os_error : 0;
                               })
        .def_property_readonly("readable", [](const Stream& self) { return self.get().readable(); })
        .def_property_readonly("is_peer_shut",
                               [](const Stream& self) { return self.get().is_peer_shut(); })
        .def_property_readonly(
            "local_address",
            [](const Stream& self) { return to_pair(value_or_raise(self.get().local_address())); })
        .def_property_readonly(
            "peer_address",
            [](const Stream& self) { return to_pair(value_or_raise(self.get().peer_address())); })
        .def_property_readonly("ideal_send_backlog",
                               [](const Stream& self) { return self.get().ideal_send_backlog(); })
        .def_property_readonly("send_backlog",
                               [](const Stream& self) { return self.get().send_backlog(); })
        .def_property_readonly("is_short_of_memory",
                               [](const Stream& self) { return self.get().is_short_of_memory(); })
        .def_property_readonly("inspect_id",
                               [](const Stream& self) { return self.get().inspect_id(); })
        .def_property_readonly("memory_use",
                               [](const Stream& self) { return self.get().memory_use(); })
        .def("__repr__", [](const Stream& self) -> std::string {
            if (!self.is_usable()) return std::string("<Stream ") + self.unusable_text() + ">";
            return std::string("<Stream ") + phase_name(self.get().phase()) + ">";
        });
    bind_stream_mappings(cls);
    attach_hot_stream_calls(cls);
    bind_bench_stream(cls);
    bind_listener_class(module);
}

}  // namespace ndv::bindings

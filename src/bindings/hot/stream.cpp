// SPDX-License-Identifier: Apache-2.0
// The data calls of streams: send, sendall, recv, recv_into. Small ones keep the GIL; what copies
// or moves more gives it up first.
#include <pybind11/pybind11.h>
#include <sys/socket.h>

#include <cerrno>
#include <memory>
#include <optional>
#include <string>

#include "bindings/hot/method.hpp"
#include "bindings/python/arguments.hpp"
#include "bindings/python/buffer.hpp"
#include "bindings/python/errors.hpp"
#include "bindings/python/gil.hpp"
#include "bindings/stream.hpp"

namespace ndv::bindings {
namespace {

constinit Parameters<2> send_parameters{"send", 2, 1, {"data", "flags"}};
constinit Parameters<2> sendall_parameters{"sendall", 2, 1, {"data", "flags"}};
constinit Parameters<2> recv_parameters{"recv", 2, 1, {"bufsize", "flags"}};
constinit Parameters<3> recv_into_parameters{"recv_into", 3, 1, {"buffer", "nbytes", "flags"}};

constexpr int kKnownFlags = MSG_PEEK | MSG_WAITALL | MSG_DONTWAIT | MSG_NOSIGNAL;
// A copy up to this is shorter than giving the GIL up and taking it again.
constexpr std::size_t kSmallCopy = 16 * 1024;

int to_flags(PyObject* object, const char* call) {
    if (object == nullptr) return 0;
    const long flags = PyLong_AsLong(object);
    if (flags == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
    if ((flags & ~static_cast<long>(kKnownFlags)) != 0) {
        raise(Error{Status::not_supported,
                    std::string(call) + ": flags " + std::to_string(flags) +
                        " contain one that streams do not have",
                    "MSG_PEEK, MSG_WAITALL and MSG_DONTWAIT are", EOPNOTSUPP});
    }
    return static_cast<int>(flags);
}

std::size_t to_size(PyObject* object, const char* name) {
    const Py_ssize_t size = PyNumber_AsSsize_t(object, PyExc_OverflowError);
    if (size == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
    if (size < 0) throw py::value_error(std::string("negative ") + name);
    return static_cast<std::size_t>(size);
}

[[noreturn]] void raise_would_block() {
    errno = EAGAIN;
    PyErr_SetFromErrno(PyExc_OSError);
    throw py::error_already_set();
}

[[noreturn]] void raise_timeout(const char* call, const std::optional<double>& timeout) {
    raise(Error{Status::io_timeout,
                std::string(call) + ": timed out after " + seconds_text(timeout.value_or(0)),
                {},
                0});
}

// A call's patience: the socket's timeout, counted from the first wait.
class Patience {
public:
    Patience(const Stream& handle, int flags, const char* call)
        : timeout_((flags & MSG_DONTWAIT) != 0 ? std::optional(0.0) : handle.timeout),
          call_(call) {}

    [[nodiscard]] bool never_waits() const { return timeout_ && *timeout_ == 0; }
    [[nodiscard]] bool has_limit() const { return timeout_.has_value(); }
    template <typename Wait>
    void wait(Wait attempt) {
        if (never_waits()) raise_would_block();
        if (!lasts(attempt)) raise_timeout(call_, timeout_);
    }
    // False: it did not come in time.
    template <typename Wait>
    [[nodiscard]] bool lasts(Wait attempt) {
        if (!deadline_) deadline_.emplace(timeout_);
        return wait_in_slices(*deadline_, attempt);
    }

private:
    const std::optional<double> timeout_;
    const char* const call_;
    std::optional<Deadline> deadline_;
};

[[nodiscard]] std::size_t send_some(stream::Stream& stream, const std::byte* data,
                                    std::size_t length) {
    if (length <= core::kSmallStep) {
        return value_or_raise(stream.send(data, length, core::Budget::small));
    }
    return value_or_raise(
        without_gil([&] { return stream.send(data, length, core::Budget::large); }));
}

// Sends from the caller's memory and waits until the device is done with it. What a timeout or a
// signal leaves is how much of it was posted.
std::size_t send_directly(const std::shared_ptr<stream::Stream>& stream, PyObject* data,
                          Patience& patience, const char* call) {
    const std::shared_ptr<stream::Transfer> transfer = transfer_for(data, false, call);
    check_or_raise(without_gil([&] { return stream->submit_send(transfer); }));
    try {
        patience.wait([&](auto slice) {
            return stream->wait_done(*transfer, slice) && transfer->operation->wait(slice);
        });
    } catch (...) {
        const Released released;
        stream->cancel(transfer);
        throw;
    }
    check_or_raise(transfer->operation->outcome());
    return static_cast<std::size_t>(transfer->length);
}

PyObject* send(PyObject* self, const Arguments<2>& arguments) {
    const auto& [data, flags_object] = arguments;
    auto& handle = usable<Stream>(self);
    const int flags = to_flags(flags_object, "send");
    Patience patience(handle, flags, "send");
    Export given;
    given.take_plain("send", data, false);
    const std::shared_ptr<stream::Stream> stream = handle.share();
    // Within a limit it takes what there is room for: of memory that the device still reads when
    // the time is over, the length would be known and the bytes would not be the caller's again.
    if (given.size() >= stream::Stream::kDirectSend && !patience.has_limit()) {
        return PyLong_FromSize_t(send_directly(stream, data, patience, "send"));
    }
    while (true) {
        const std::size_t sent = send_some(*stream, given.data(), given.size());
        if (sent > 0 || given.size() == 0) return PyLong_FromSize_t(sent);
        patience.wait([&](auto slice) { return stream->wait_writable(slice); });
    }
}

PyObject* sendall(PyObject* self, const Arguments<2>& arguments) {
    const auto& [data, flags_object] = arguments;
    auto& handle = usable<Stream>(self);
    const int flags = to_flags(flags_object, "sendall");
    Patience patience(handle, flags, "sendall");
    Export given;
    given.take_plain("sendall", data, false);
    const std::shared_ptr<stream::Stream> stream = handle.share();
    if (given.size() >= stream::Stream::kDirectSend && !patience.never_waits()) {
        static_cast<void>(send_directly(stream, data, patience, "sendall"));
        Py_RETURN_NONE;
    }
    std::size_t done = 0;
    while (true) {
        done += send_some(*stream, given.data() + done, given.size() - done);
        if (done == given.size()) Py_RETURN_NONE;
        patience.wait([&](auto slice) { return stream->wait_writable(slice); });
    }
}

[[nodiscard]] Expected<stream::Received> receive_some(stream::Stream& stream, std::byte* to,
                                                      std::size_t length, bool peeks) {
    if (length <= kSmallCopy) return stream.receive(to, length, core::Budget::small, peeks);
    return without_gil([&] { return stream.receive(to, length, core::Budget::large, peeks); });
}

// Fills `to` as recv does: what is there, or with MSG_WAITALL all of it; waits for the first byte.
// What came before a failure or the end of the time is returned; the next call says why.
std::size_t receive(const std::shared_ptr<stream::Stream>& stream, std::byte* to,
                    std::size_t length, int flags, Patience& patience) {
    const bool peeks = (flags & MSG_PEEK) != 0;
    const bool is_all = (flags & MSG_WAITALL) != 0 && !peeks;
    std::size_t done = 0;
    while (true) {
        auto received = receive_some(*stream, to + done, length - done, peeks);
        if (!received && done > 0) return done;
        const stream::Received got = value_or_raise(std::move(received));
        done += got.bytes;
        if (got.is_end || length == 0 || done == length || (done > 0 && !is_all)) return done;
        const auto attempt = [&](auto slice) { return stream->wait_readable(slice); };
        if (done == 0) {
            patience.wait(attempt);
        } else if (patience.never_waits() || !patience.lasts(attempt)) {
            return done;
        }
    }
}

PyObject* recv(PyObject* self, const Arguments<2>& arguments) {
    const auto& [size_object, flags_object] = arguments;
    auto& handle = usable<Stream>(self);
    const std::size_t most = to_size(size_object, "buffersize in recv");
    const int flags = to_flags(flags_object, "recv");
    Patience patience(handle, flags, "recv");
    const std::shared_ptr<stream::Stream> stream = handle.share();
    std::size_t available = 0;
    if (most > 0 && (flags & MSG_WAITALL) == 0) {
        while ((available = stream->available()) == 0) {
            const stream::Received got = value_or_raise(receive_some(*stream, nullptr, 0, false));
            if (got.is_end) return PyBytes_FromStringAndSize(nullptr, 0);
            patience.wait([&](auto slice) { return stream->wait_readable(slice); });
        }
    }
    const std::size_t size = available == 0 ? most : std::min(most, available);
    PyObject* bytes = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(size));
    if (bytes == nullptr) return nullptr;
    try {
        auto* const to = reinterpret_cast<std::byte*>(PyBytes_AS_STRING(bytes));
        const std::size_t got = receive(stream, to, size, flags, patience);
        if (got < size && _PyBytes_Resize(&bytes, static_cast<Py_ssize_t>(got)) != 0) {
            return nullptr;
        }
    } catch (...) {
        Py_DECREF(bytes);
        throw;
    }
    return bytes;
}

PyObject* recv_into(PyObject* self, const Arguments<3>& arguments) {
    const auto& [buffer, size_object, flags_object] = arguments;
    auto& handle = usable<Stream>(self);
    Export given;
    given.take_plain("recv_into", buffer, true);
    std::size_t most = size_object == nullptr ? 0 : to_size(size_object, "buffersize in recv_into");
    if (most > given.size()) {
        throw py::value_error("buffer too small for requested bytes");
    }
    if (most == 0) most = given.size();
    const int flags = to_flags(flags_object, "recv_into");
    Patience patience(handle, flags, "recv_into");
    const std::shared_ptr<stream::Stream> stream = handle.share();
    return PyLong_FromSize_t(receive(stream, given.data(), most, flags, patience));
}

}  // namespace

void attach_hot_stream_calls(const py::handle& cls) {
    attach<send, send_parameters>(cls);
    attach<sendall, sendall_parameters>(cls);
    attach<recv, recv_parameters>(cls);
    attach<recv_into, recv_into_parameters>(cls);
}

}  // namespace ndv::bindings

// SPDX-License-Identifier: Apache-2.0
// Bandwidth and round trips of streams.
#include "bench/stream.hpp"

#include <algorithm>

namespace ndv::bench {
namespace {

constexpr std::chrono::milliseconds kSlice{50};
// What the sink reads at once, as iperf3 does.
constexpr std::size_t kSinkSize = 128 * 1024;

Unexpected interrupted() { return fail(Status::cancelled, "bench: interrupted"); }

Expected<void> send_all(stream::Stream& stream, const std::byte* data, std::size_t size,
                        const Interrupt& is_interrupted) {
    std::size_t done = 0;
    while (true) {
        auto sent = stream.send(data + done, size - done, core::Budget::large);
        if (!sent) return Unexpected{sent.error()};
        done += *sent;
        if (done == size) return {};
        if (!stream.wait_writable(kSlice) && is_interrupted()) return interrupted();
    }
}

// At least one byte, at most `size`.
Expected<std::size_t> receive_some(stream::Stream& stream, std::byte* to, std::size_t size,
                                   const Interrupt& is_interrupted) {
    while (true) {
        auto received = stream.receive(to, size, core::Budget::large);
        if (!received) return Unexpected{received.error()};
        if (received->bytes > 0) return received->bytes;
        if (received->is_end) {
            return fail(Status::connection_reset, "bench: the peer ended in the middle of a run");
        }
        if (!stream.wait_readable(kSlice) && is_interrupted()) return interrupted();
    }
}

Expected<void> receive_all(stream::Stream& stream, std::byte* to, std::size_t size,
                           const Interrupt& is_interrupted) {
    std::size_t done = 0;
    while (done < size) {
        auto received = receive_some(stream, to + done, size - done, is_interrupted);
        if (!received) return Unexpected{received.error()};
        done += *received;
    }
    return {};
}

}  // namespace

Expected<Clock::duration> stream_source(stream::Stream& stream, std::size_t size,
                                        std::uint64_t total, const Interrupt& is_interrupted) {
    const std::vector<std::byte> data(size, std::byte{7});
    const Clock::time_point begin = Clock::now();
    for (std::uint64_t done = 0; done < total; done += size) {
        const auto now = static_cast<std::size_t>(std::min<std::uint64_t>(size, total - done));
        if (auto sent = send_all(stream, data.data(), now, is_interrupted); !sent) {
            return Unexpected{sent.error()};
        }
    }
    std::byte answer;
    if (auto arrived = receive_all(stream, &answer, 1, is_interrupted); !arrived) {
        return Unexpected{arrived.error()};
    }
    return Clock::now() - begin;
}

Expected<void> stream_sink(stream::Stream& stream, std::uint64_t total,
                           const Interrupt& is_interrupted) {
    std::vector<std::byte> data(kSinkSize);
    std::uint64_t done = 0;
    while (done < total) {
        const auto most =
            static_cast<std::size_t>(std::min<std::uint64_t>(data.size(), total - done));
        auto received = receive_some(stream, data.data(), most, is_interrupted);
        if (!received) return Unexpected{received.error()};
        done += *received;
    }
    const std::byte answer{1};
    return send_all(stream, &answer, 1, is_interrupted);
}

Expected<std::vector<Clock::duration>> stream_ping(stream::Stream& stream, std::size_t size,
                                                   std::uint64_t count,
                                                   const Interrupt& is_interrupted) {
    std::vector<std::byte> data(size, std::byte{7});
    std::vector<Clock::duration> samples;
    samples.reserve(count);
    for (std::uint64_t i = 0; i < count; ++i) {
        const Clock::time_point begin = Clock::now();
        if (auto sent = send_all(stream, data.data(), size, is_interrupted); !sent) {
            return Unexpected{sent.error()};
        }
        if (auto got = receive_all(stream, data.data(), size, is_interrupted); !got) {
            return Unexpected{got.error()};
        }
        samples.push_back(Clock::now() - begin);
    }
    return samples;
}

Expected<void> stream_echo(stream::Stream& stream, std::size_t size, std::uint64_t count,
                           const Interrupt& is_interrupted) {
    std::vector<std::byte> data(size);
    for (std::uint64_t i = 0; i < count; ++i) {
        if (auto got = receive_all(stream, data.data(), size, is_interrupted); !got) return got;
        if (auto sent = send_all(stream, data.data(), size, is_interrupted); !sent) return sent;
    }
    return {};
}

}  // namespace ndv::bench

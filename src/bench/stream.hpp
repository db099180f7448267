// SPDX-License-Identifier: Apache-2.0
// The timed loops behind `ndverbs bench stream`, over a connected stream; both ends run one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/expected.hpp"
#include "bench/driver.hpp"
#include "stream/stream.hpp"

namespace ndv::bench {

// Sends `total` bytes in messages of `size`, then waits for the byte with which the sink says that
// all has arrived; returns how long that took.
[[nodiscard]] Expected<Clock::duration> stream_source(stream::Stream& stream, std::size_t size,
                                                      std::uint64_t total,
                                                      const Interrupt& is_interrupted);
[[nodiscard]] Expected<void> stream_sink(stream::Stream& stream, std::uint64_t total,
                                         const Interrupt& is_interrupted);
// `count` round trips of `size` bytes, each timed.
[[nodiscard]] Expected<std::vector<Clock::duration>> stream_ping(stream::Stream& stream,
                                                                 std::size_t size,
                                                                 std::uint64_t count,
                                                                 const Interrupt& is_interrupted);
[[nodiscard]] Expected<void> stream_echo(stream::Stream& stream, std::size_t size,
                                         std::uint64_t count, const Interrupt& is_interrupted);

}  // namespace ndv::bench

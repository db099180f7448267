// SPDX-License-Identifier: Apache-2.0
// What the machine itself does, for rows to be compared with: a store that another processor sees,
// a copy, and the kernel's copy into another process. Each is the median over small windows, so a
// processor that is taken away for a while spoils a window and not the figure.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>

#include "base/expected.hpp"
#include "bench/driver.hpp"

namespace ndv::bench {

using Seconds = std::chrono::duration<double>;

// One way of a ping-pong of two threads: each stores into its cache line and spins on the other's.
[[nodiscard]] Expected<Seconds> store_ping_pong(Clock::duration duration);

// memcpy between two buffers of `size` bytes, at least 1.
[[nodiscard]] Expected<Seconds> copy_memory(std::size_t size, Clock::duration duration);

// process_vm_writev of `size` bytes to `address` of a process.
[[nodiscard]] Expected<Seconds> copy_to_process(pid_t pid, std::uint64_t address, std::size_t size,
                                                Clock::duration duration);

}  // namespace ndv::bench

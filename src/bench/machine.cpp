// SPDX-License-Identifier: Apache-2.0
// The yardsticks of this machine.
#include "bench/machine.hpp"

#include <sched.h>
#include <sys/uio.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace ndv::bench {
namespace {

// Two lines on each side: processors fetch them in pairs.
constexpr std::size_t kApart = 128;
constexpr std::size_t kMostWindows = 100'000;
constexpr int kRoundTripsPerWindow = 16;

struct alignas(kApart) Line {
    std::atomic<std::uint64_t> value{0};
};

// Calls `window` until the time is over, and returns the median time of a call.
template <typename Window>
Seconds median_of(Window&& window, Clock::duration duration) {
    std::vector<Clock::duration> samples;
    samples.reserve(kMostWindows);
    const Clock::time_point begin = Clock::now();
    Clock::time_point before = begin;
    while (samples.empty() || (samples.size() < kMostWindows && before - begin < duration)) {
        if (!window()) break;
        const Clock::time_point after = Clock::now();
        samples.push_back(after - before);
        before = after;
    }
    if (samples.empty()) return Seconds{};
    const auto middle = samples.begin() + static_cast<std::ptrdiff_t>(samples.size() / 2);
    std::nth_element(samples.begin(), middle, samples.end());
    return *middle;
}

// Calls `window` until the time is over, and returns the mean time of a call, as bandwidths are
// means; none when a call fails. The first calls find memory that is not there yet.
template <typename Window>
Seconds mean_of(Window&& window, Clock::duration duration) {
    constexpr int kWarmUp = 16;
    for (int i = 0; i < kWarmUp; ++i) {
        if (!window()) return Seconds{};
    }
    const Clock::time_point begin = Clock::now();
    Clock::time_point now = begin;
    std::size_t count = 0;
    do {
        if (!window()) return Seconds{};
        ++count;
        now = Clock::now();
    } while (now - begin < duration);
    return Seconds(now - begin) / static_cast<double>(count);
}

// Keeps this thread off a processor, where there are others: two threads that spin on one take a
// scheduler's time slice for each store.
void avoid(int processor) {
    cpu_set_t allowed;
    if (processor < 0 || ::sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    CPU_CLR(static_cast<unsigned>(processor), &allowed);
    if (CPU_COUNT(&allowed) > 0) ::sched_setaffinity(0, sizeof allowed, &allowed);
}

}  // namespace

Expected<Seconds> store_ping_pong(Clock::duration duration) {
    constexpr std::uint64_t kOver = ~std::uint64_t{0};
    Line ping;
    Line pong;
    const auto answer = [&, processor = ::sched_getcpu()] {
        avoid(processor);
        for (std::uint64_t expected = 1;; ++expected) {
            std::uint64_t seen = 0;
            // acquire and release: either thread's store pairs with the load of the other, as the
            // last byte of a Write does.
            while ((seen = ping.value.load(std::memory_order_acquire)) < expected) {
            }
            if (seen == kOver) return;
            pong.value.store(expected, std::memory_order_release);
        }
    };
    std::thread other;
    try {
        other = std::thread(answer);
    } catch (const std::system_error& error) {
        return fail(Status::insufficient_resources, "bench: no thread for the raw store ping-pong",
                    "", error.code().value());
    }
    std::uint64_t number = 0;
    const Seconds window = median_of(
        [&] {
            for (int i = 0; i < kRoundTripsPerWindow; ++i) {
                ping.value.store(++number, std::memory_order_release);
                while (pong.value.load(std::memory_order_acquire) != number) {
                }
            }
            return true;
        },
        duration);
    ping.value.store(kOver, std::memory_order_release);
    other.join();
    return window / (2 * kRoundTripsPerWindow);
}

Expected<Seconds> copy_memory(std::size_t size, Clock::duration duration) {
    const std::vector<std::byte> source(size, std::byte{1});
    std::vector<std::byte> target(size);
    return mean_of(
        [&] {
            std::memcpy(target.data(), source.data(), size);
            // The compiler may not leave out a copy that nothing reads.
            std::atomic_signal_fence(std::memory_order_seq_cst);
            return true;
        },
        duration);
}

Expected<Seconds> copy_to_process(pid_t pid, std::uint64_t address, std::size_t size,
                                  Clock::duration duration) {
    std::vector<std::byte> source(size, std::byte{1});
    const iovec local{source.data(), size};
    const iovec remote{reinterpret_cast<void*>(address), size};
    int failure = 0;
    const Seconds each = mean_of(
        [&] {
            const ssize_t written = ::process_vm_writev(pid, &local, 1, &remote, 1, 0);
            if (written < 0) failure = errno;
            return written == static_cast<ssize_t>(size);
        },
        duration);
    if (each == Seconds{}) {
        return fail(Status::access_denied,
                    "bench: process_vm_writev of " + std::to_string(size) + " bytes into process " +
                        std::to_string(pid),
                    "Yama, seccomp or another user's process forbid it", failure);
    }
    return each;
}

}  // namespace ndv::bench

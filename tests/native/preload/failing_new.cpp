// SPDX-License-Identifier: Apache-2.0
// A library to load in front of the extension (LD_PRELOAD): operator new that fails once on a
// thread of the runtime's own, when a test says so.
#include <pthread.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

// Allocations of our threads up to the one that fails; none fails while it is not positive.
std::atomic<long> left{0};

bool is_ours() {
    std::array<char, 16> name{};
    pthread_getname_np(pthread_self(), name.data(), name.size());
    return std::strncmp(name.data(), "ndverbs", 7) == 0;
}

bool fails() {
    return left.load(std::memory_order_relaxed) > 0 && is_ours() &&
           left.fetch_sub(1, std::memory_order_relaxed) == 1;
}

void* checked(void* at) {
    if (at == nullptr) throw std::bad_alloc();
    return at;
}

}  // namespace

extern "C" {
[[gnu::visibility("default")]] void fail_allocation(long which) { left.store(which); }
[[gnu::visibility("default")]] long allocations_left() { return left.load(); }
}

[[gnu::visibility("default")]] void* operator new(std::size_t size) {
    return checked(fails() ? nullptr : std::malloc(size));
}
[[gnu::visibility("default")]] void* operator new(std::size_t size, std::align_val_t alignment) {
    const auto step = static_cast<std::size_t>(alignment);
    const std::size_t whole = (size + step - 1) / step * step;
    return checked(fails() ? nullptr : std::aligned_alloc(step, whole));
}
[[gnu::visibility("default")]] void operator delete(void* at) noexcept { std::free(at); }
[[gnu::visibility("default")]] void operator delete(void* at, std::size_t) noexcept {
    std::free(at);
}
[[gnu::visibility("default")]] void operator delete(void* at, std::align_val_t) noexcept {
    std::free(at);
}
[[gnu::visibility("default")]] void operator delete(void* at, std::size_t,
                                                    std::align_val_t) noexcept {
    std::free(at);
}

// SPDX-License-Identifier: Apache-2.0
// Mapping pages a second time.
#include "providers/verbs/scattered_pages.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "core/mapping.hpp"

namespace ndv::verbs {

ScatteredPages* ScatteredPages::create(std::span<const std::uint64_t> addresses,
                                       std::span<core::BufferHold* const> holds) {
    const std::uint64_t page = core::page_size();
    const std::uint64_t size = addresses.size() * page;
    void* const place =
        ::mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (place == MAP_FAILED) return nullptr;
    auto* const data = static_cast<std::byte*>(place);
    std::size_t next = 0;
    for (std::size_t first = 0; first < addresses.size(); first = next) {
        next = first + 1;
        while (next < addresses.size() && addresses[next] == addresses[next - 1] + page) ++next;
        // mremap(2): with an old size of 0 it maps the same pages of a shared mapping again, and
        // refuses for a private one.
        const void* const mapped =
            ::mremap(reinterpret_cast<void*>(addresses[first]), 0, (next - first) * page,
                     MREMAP_MAYMOVE | MREMAP_FIXED, data + first * page);
        if (mapped == MAP_FAILED) {
            const int os_error = errno;
            ::munmap(place, size);
            errno = os_error;
            return nullptr;
        }
    }
    const bool is_writable =
        std::ranges::all_of(holds, [](const auto* hold) { return hold->is_writable(); });
    return new ScatteredPages(data, size, is_writable, holds);
}

ScatteredPages::ScatteredPages(std::byte* data, std::uint64_t size, bool is_writable,
                               std::span<core::BufferHold* const> holds)
    : BufferHold(data, size, is_writable), holds_(holds.begin(), holds.end()) {
    for (core::BufferHold* const hold : holds_) hold->add_reference();
}

void ScatteredPages::give_back() noexcept {
    ::munmap(data(), size());
    for (core::BufferHold* const hold : holds_) hold->release();
    delete this;
}

}  // namespace ndv::verbs

// SPDX-License-Identifier: Apache-2.0
// Memory of ours that a device works with, in pages of its own. Before Linux 5.12 libibverbs keeps
// registered pages out of forked children (MADV_DONTFORK): on the heap, whatever else the allocator
// has put into them would be missing there, too.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <utility>

namespace ndv::verbs {

class OwnPages {
public:
    OwnPages() = default;
    // Zeroes; empty, with errno, when there is no memory.
    explicit OwnPages(std::size_t size) {
        void* const made =
            ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (made == MAP_FAILED) return;
        data_ = static_cast<std::byte*>(made);
        size_ = size;
    }
    OwnPages(const OwnPages&) = delete;
    OwnPages& operator=(const OwnPages&) = delete;
    OwnPages(OwnPages&& other) noexcept { swap(other); }
    OwnPages& operator=(OwnPages&& other) noexcept {
        swap(other);
        return *this;
    }
    ~OwnPages() {
        if (data_ != nullptr) ::munmap(data_, size_);
    }

    [[nodiscard]] std::byte* data() const { return data_; }
    [[nodiscard]] std::size_t size() const { return size_; }
    explicit operator bool() const { return data_ != nullptr; }

private:
    void swap(OwnPages& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
    }

    std::byte* data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace ndv::verbs

// SPDX-License-Identifier: Apache-2.0
// Memory of ours that a device works with, in pages of its own. Before Linux 5.12 libibverbs keeps
// registered pages out of forked children (MADV_DONTFORK): on the heap, whatever else the allocator
// has put into them would be missing there, too.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <memory>
#include <utility>

#include "providers/verbs/device.hpp"

namespace ndv::verbs {

class OwnPages {
public:
    explicit OwnPages(std::shared_ptr<OwnedDomain> domain) : domain_(std::move(domain)) {}
    OwnPages(const OwnPages&) = delete;
    OwnPages& operator=(const OwnPages&) = delete;
    ~OwnPages() {
        if (region_ != nullptr && !domain_->device()->is_foreign()) ibv_dereg_mr(region_);
        if (data_ != nullptr) ::munmap(data_, size_);
    }
    // Zeroes. Both: false, with errno, when there is no memory.
    [[nodiscard]] bool map(std::size_t size) {
        void* const made =
            ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (made == MAP_FAILED) return false;
        data_ = static_cast<std::byte*>(made);
        size_ = size;
        return true;
    }
    [[nodiscard]] bool register_all() {
        // In parentheses: the function itself, not the header's macro.
        region_ = ibv_reg_mr(domain_->get(), data_, size_, IBV_ACCESS_LOCAL_WRITE);
        return region_ != nullptr;
    }

    [[nodiscard]] const OwnedDomain& domain() const { return *domain_; }
    [[nodiscard]] std::byte* data() const { return data_; }
    // The device's; 0: it is not registered.
    [[nodiscard]] std::uint32_t key() const { return region_ == nullptr ? 0 : region_->lkey; }

private:
    const std::shared_ptr<OwnedDomain> domain_;
    ibv_mr* region_ = nullptr;
    std::byte* data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace ndv::verbs

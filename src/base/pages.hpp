// SPDX-License-Identifier: Apache-2.0
// A range of memory that is made of pages of one size, anywhere and in any order.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace ndv::base {

// Does not own the list of pages.
class PageList {
public:
    PageList() = default;
    // The range begins `first_byte_offset` bytes into the first page; pages are 2^shift bytes.
    PageList(std::span<std::byte* const> pages, std::uint64_t first_byte_offset, unsigned shift)
        : pages_(pages), first_byte_offset_(first_byte_offset), shift_(shift) {}

    // The part [offset, offset + length) of the range as at most `max` pieces; fewer bytes than
    // asked when `max` is too small. Pages that follow each other in memory are one piece.
    [[nodiscard]] std::size_t pieces(std::uint64_t offset, std::size_t length, iovec* out,
                                     std::size_t max) const {
        const std::uint64_t page_size = std::uint64_t{1} << shift_;
        std::uint64_t at = first_byte_offset_ + offset;
        std::size_t count = 0;
        while (length > 0) {
            const std::uint64_t in_page = at & (page_size - 1);
            const std::size_t size = std::min<std::size_t>(page_size - in_page, length);
            std::byte* const data = pages_[at >> shift_] + in_page;
            if (count > 0 && end_of(out[count - 1]) == data) {
                out[count - 1].iov_len += size;
            } else if (count == max) {
                break;
            } else {
                out[count++] = {data, size};
            }
            at += size;
            length -= size;
        }
        return count;
    }

    // Whether the `length` bytes of the range lie in one piece.
    [[nodiscard]] bool is_contiguous(std::uint64_t length) const {
        const std::uint64_t last = (first_byte_offset_ + length - 1) >> shift_;
        for (std::uint64_t i = 1; i <= last; ++i) {
            if (pages_[i] != pages_[i - 1] + (std::size_t{1} << shift_)) return false;
        }
        return true;
    }

private:
    static std::byte* end_of(const iovec& piece) {
        return static_cast<std::byte*>(piece.iov_base) + piece.iov_len;
    }

    std::span<std::byte* const> pages_;
    std::uint64_t first_byte_offset_ = 0;
    unsigned shift_ = 12;
};

}  // namespace ndv::base

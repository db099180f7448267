// SPDX-License-Identifier: Apache-2.0
// Pages in any order as one piece of this process's address space: the same pages a second time,
// not copies. Linux gives that for shared mappings only; it is what a window over pages that do not
// follow each other needs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/memory.hpp"

namespace ndv::verbs {

class ScatteredPages final : public core::BufferHold {
public:
    // The holds are counted here, too. Null: errno is EINVAL where the memory is private.
    [[nodiscard]] static ScatteredPages* create(std::span<const std::uint64_t> addresses,
                                                std::span<core::BufferHold* const> holds);
    ScatteredPages(std::byte* data, std::uint64_t size, bool is_writable,
                   std::span<core::BufferHold* const> holds);
    ~ScatteredPages() override = default;

private:
    void give_back() noexcept override;
    const std::vector<core::BufferHold*> holds_;  // one reference each
};

}  // namespace ndv::verbs

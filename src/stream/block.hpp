// SPDX-License-Identifier: Apache-2.0
// Memory of a stream: fresh pages that cost nothing until they are touched, where the peer can map
// them, and the holds by which parts of them are registered.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include "base/expected.hpp"
#include "core/memory.hpp"

namespace ndv::stream {

class Block {
public:
    [[nodiscard]] static Expected<std::shared_ptr<Block>> create(core::ProtectionDomain& pd,
                                                                 std::size_t size);
    Block(std::shared_ptr<std::byte> pages, std::size_t size)
        : pages_(std::move(pages)), size_(size) {}

    [[nodiscard]] std::byte* data() const { return pages_.get(); }
    [[nodiscard]] std::size_t size() const { return size_; }

private:
    const std::shared_ptr<std::byte> pages_;
    const std::size_t size_;
};

// A hold on part of a block, with one reference that the caller owns.
[[nodiscard]] core::BufferHold* hold_part(std::shared_ptr<Block> block, std::size_t offset,
                                          std::size_t size);

}  // namespace ndv::stream

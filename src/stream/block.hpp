// SPDX-License-Identifier: Apache-2.0
// Memory of a stream: fresh pages that cost nothing until they are touched, and the holds by which
// parts of them are registered.
#pragma once

#include <cstddef>
#include <memory>

#include "base/expected.hpp"
#include "core/memory.hpp"

namespace ndv::stream {

class Block {
public:
    [[nodiscard]] static Expected<std::shared_ptr<Block>> create(std::size_t size);
    Block(std::byte* data, std::size_t size) : data_(data), size_(size) {}
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;
    ~Block();

    [[nodiscard]] std::byte* data() const { return data_; }
    [[nodiscard]] std::size_t size() const { return size_; }

private:
    std::byte* const data_;
    const std::size_t size_;
};

// A hold on part of a block, with one reference that the caller owns.
[[nodiscard]] core::BufferHold* hold_part(std::shared_ptr<Block> block, std::size_t offset,
                                          std::size_t size);

}  // namespace ndv::stream

// SPDX-License-Identifier: Apache-2.0
// Pages from the system.
#include "stream/block.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <string>
#include <utility>

namespace ndv::stream {
namespace {

class PartHold final : public core::BufferHold {
public:
    PartHold(std::shared_ptr<Block> block, std::size_t offset, std::size_t size)
        : BufferHold(block->data() + offset, size, true), block_(std::move(block)) {}

private:
    friend std::default_delete<PartHold>;
    ~PartHold() override = default;
    void give_back() noexcept override { const std::unique_ptr<PartHold> self(this); }

    const std::shared_ptr<Block> block_;
};

}  // namespace

Expected<std::shared_ptr<Block>> Block::create(core::ProtectionDomain& pd, std::size_t size) {
    if (auto lent = pd.lend_pages(size); lent && *lent) {
        return std::make_shared<Block>(std::move(*lent), size);
    }
    void* const pages =
        ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) {
        return fail(Status::insufficient_resources,
                    "no memory for a stream's buffer of " + std::to_string(size) + " bytes",
                    "set smaller buffers (SO_RCVBUF, SO_SNDBUF)", errno);
    }
    std::shared_ptr<std::byte> kept(static_cast<std::byte*>(pages),
                                    [size](std::byte* gone) { ::munmap(gone, size); });
    return std::make_shared<Block>(std::move(kept), size);
}

core::BufferHold* hold_part(std::shared_ptr<Block> block, std::size_t offset, std::size_t size) {
    return std::make_unique<PartHold>(std::move(block), offset, size).release();
}

}  // namespace ndv::stream

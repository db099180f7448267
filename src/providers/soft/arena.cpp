// SPDX-License-Identifier: Apache-2.0
// Ranges of the file of an arena.
#include "providers/soft/arena.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <string>
#include <utility>

namespace ndv::soft {

std::shared_ptr<Arena> Arena::create() {
    base::Descriptor file = base::make_memory_file("ndverbs-arena", kSize);
    return file ? std::make_shared<Arena>(std::move(file)) : nullptr;
}

Expected<std::shared_ptr<std::byte>> Arena::allocate(std::size_t size, Pages pages) {
    static const auto kPage = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    const auto no_memory = [size](int os_error) {
        return fail(Status::insufficient_resources,
                    "no memory for " + std::to_string(size) + " bytes that processes can map",
                    "allocate less, or let arrays of the adapter go", os_error);
    };
    if (size > kSize) return no_memory(ENOMEM);
    const std::size_t whole = (std::max<std::size_t>(size, 1) + kPage - 1) / kPage * kPage;
    const base::Lock lock(mutex_);
    const std::optional<std::size_t> offset = take_range(whole);
    if (!offset) return no_memory(ENOMEM);
    const bool has_pages =
        pages == Pages::once_touched ||
        ::fallocate(file_.get(), 0, static_cast<off_t>(*offset), static_cast<off_t>(whole)) == 0;
    const int os_error = has_pages ? ENOMEM : errno;
    base::FileMapping mapping;
    if (has_pages) mapping = base::FileMapping::map(file_.get(), *offset, whole, true, true);
    std::byte* const data = mapping.data();
    parts_.emplace(data, Part{*offset, whole, std::move(mapping)});
    ++count_;
    if (data == nullptr) {
        end_part(parts_.find(data));
        return no_memory(os_error);
    }
    return std::shared_ptr<std::byte>(
        data, [self = shared_from_this()](const std::byte* gone) { self->give_back(gone); });
}

// First fit; neighbours that are free are one range.
std::optional<std::size_t> Arena::take_range(std::size_t size) {
    for (auto range = free_.begin(); range != free_.end(); ++range) {
        if (range->second < size) continue;
        const auto [offset, left] = *range;
        free_.erase(range);
        if (left > size) free_.emplace(offset + size, left - size);
        return offset;
    }
    return std::nullopt;
}

void Arena::give_back(const std::byte* data) {
    // In a forked child the memory is its parent's, and the descriptor another file's by now.
    if (made_in_ != base::fork_generation()) return;
    const base::Lock lock(mutex_);
    if (const auto found = parts_.find(data); found != parts_.end()) end_part(found);
}

void Arena::end_part(Parts::iterator part) {
    const std::size_t offset = part->second.offset;
    std::size_t size = part->second.size;
    // Also in the processes that map it.
    static_cast<void>(::fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                  static_cast<off_t>(offset), static_cast<off_t>(size)));
    parts_.erase(part);
    --count_;
    auto next = free_.lower_bound(offset);
    if (next != free_.end() && next->first == offset + size) {
        size += next->second;
        next = free_.erase(next);
    }
    if (next != free_.begin()) {
        const auto before = std::prev(next);
        if (before->first + before->second == offset) {
            before->second += size;
            return;
        }
    }
    free_.emplace(offset, size);
}

std::optional<std::uint64_t> Arena::find(const std::byte* data, std::size_t size) const {
    if (count_.load(std::memory_order_relaxed) == 0) return std::nullopt;
    const base::Lock lock(mutex_);
    auto part = parts_.upper_bound(data);
    if (part == parts_.begin()) return std::nullopt;
    --part;
    const auto before = static_cast<std::size_t>(data - part->first);
    if (before > part->second.size || size > part->second.size - before) return std::nullopt;
    return part->second.offset + before;
}

}  // namespace ndv::soft

// SPDX-License-Identifier: Apache-2.0
// Ranges of the file of an arena.
#include "providers/soft/arena.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <new>
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
    std::byte* data = nullptr;
    {
        const base::Lock lock(mutex_);
        const std::optional<std::size_t> offset = take_range(whole);
        if (!offset) return no_memory(ENOMEM);
        auto mapping = map(*offset, whole, pages);
        if (!mapping) {
            const int os_error = errno;
            end_range(*offset, whole);
            return no_memory(os_error);
        }
        data = mapping.data();
        try {
            parts_.emplace(data, Part{*offset, whole, std::move(mapping)});
        } catch (const std::bad_alloc&) {
            end_range(*offset, whole);
            throw;
        }
        ++count_;
    }
    return std::shared_ptr<std::byte>(
        data, [self = shared_from_this()](const std::byte* gone) { self->give_back(gone); });
}

base::FileMapping Arena::map(std::size_t offset, std::size_t size, Pages pages) const {
    if (pages == Pages::now &&
        ::fallocate(file_.get(), 0, static_cast<off_t>(offset), static_cast<off_t>(size)) != 0) {
        return {};
    }
    return base::FileMapping::map(file_.get(), offset, size, true, true);
}

// First fit, from the end of a range, which takes no memory; neighbours that are free are one
// range.
std::optional<std::size_t> Arena::take_range(std::size_t size) {
    for (auto range = free_.begin(); range != free_.end(); ++range) {
        if (range->second < size) continue;
        const std::size_t offset = range->first + range->second - size;
        range->second -= size;
        if (range->second == 0) free_.erase(range);
        return offset;
    }
    return std::nullopt;
}

void Arena::give_back(const std::byte* data) {
    // In a forked child the memory is its parent's, and the descriptor another file's by now.
    if (made_in_ != base::fork_generation()) return;
    const base::Lock lock(mutex_);
    const auto found = parts_.find(data);
    const std::size_t offset = found->second.offset;
    const std::size_t size = found->second.size;
    parts_.erase(found);
    --count_;
    end_range(offset, size);
}

void Arena::end_range(std::size_t offset, std::size_t size) {
    // Also in the processes that map it.
    static_cast<void>(::fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                  static_cast<off_t>(offset), static_cast<off_t>(size)));
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
    try {
        free_.emplace(offset, size);
    } catch (const std::bad_alloc&) {
        // These addresses are lost; there are many.
    }
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

// SPDX-License-Identifier: Apache-2.0
// Soft fast-register regions, windows and logical address mappings. A posted fast_register or bind
// is a Mapping: it waits in the send queue, becomes an entry of the memory table when its turn
// comes, and ends with an invalidate from here or from the peer.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/mutex.hpp"
#include "core/mapping.hpp"
#include "providers/soft/memory_table.hpp"

namespace ndv::soft {

class Mappable;

// One posted fast_register or bind. Counted: by its request, by the table entry that it becomes,
// and by every request that names its token; the last reference puts it back where it came from.
class Mapping final : public core::BufferHold {
public:
    Mapping() : BufferHold(nullptr, 0, true) {}

    // The stepper, in queue order. INVALID_DEVICE_REQUEST: the last one has not ended.
    [[nodiscard]] Status begin(std::uint64_t queue_pair);
    // Its entry of the table is gone; it may be filled again.
    void leave();
    // Its request has had its turn or is retired: no look-up finds it as a posted one any more.
    void leave_queue();

    [[nodiscard]] const EntryContent& content() const { return content_; }
    [[nodiscard]] std::uint32_t token() const { return token_; }

private:
    friend class Mappable;
    void give_back() noexcept override;

    std::shared_ptr<Mappable> owner_;  // while it is in use
    std::uint32_t token_ = 0;
    std::uint32_t slot_ = 0;  // behind the token
    EntryContent content_;
    std::vector<std::byte*> pages_;
    base::PageList list_;
    std::vector<core::BufferHold*> holds_;      // one reference each
    std::shared_ptr<core::MemoryRegion> base_;  // bind: the region below, counted there
};

// What a fast-register region and a window have in common: the tokens, one after the other, and
// which of them is alive. Outlives its front object while mappings of it are in use.
class Mappable : public std::enable_shared_from_this<Mappable> {
public:
    Mappable(std::shared_ptr<MemoryTable> table, std::shared_ptr<Progress> progress,
             std::uint64_t domain, std::uint32_t max_pages)
        : table_(std::move(table)),
          progress_(std::move(progress)),
          domain_(domain),
          max_pages_(max_pages) {}
    ~Mappable();
    Mappable(const Mappable&) = delete;
    Mappable& operator=(const Mappable&) = delete;

    // Posting: a mapping with a new token, or the reason against it. The caller owns one reference.
    [[nodiscard]] Status prepare(const core::FastRegisterRequest& request, Mapping*& out);
    [[nodiscard]] Status prepare(const core::BindRequest& request, Mapping*& out);
    [[nodiscard]] core::Mapped mapped() const;
    // No mapping begins any more, and the living one ends: waits for the steps that go on.
    void close();

private:
    friend class Mapping;
    [[nodiscard]] Status take(Mapping*& out);
    [[nodiscard]] Status add_pages(const core::FastRegisterRequest& request, std::uint32_t rights,
                                   Mapping& to);
    void set_mapped(const Mapping& mapping, std::uint32_t rights);
    void put_back(std::unique_ptr<Mapping> mapping);
    void end(Mapping& mapping, std::chrono::nanoseconds patience);

    const std::shared_ptr<MemoryTable> table_;
    const std::shared_ptr<Progress> progress_;
    const std::uint64_t domain_;
    const std::uint32_t max_pages_;
    std::atomic<std::uint32_t> live_token_{0};  // claimed by begin(), cleared by end()
    std::atomic<bool> is_closed_{false};
    mutable base::Mutex mutex_;
    // A slot with the number of mappings in use whose tokens are of it.
    struct Slot {
        TokenSource source;
        std::uint32_t used = 0;
    };
    Slot slot_ NDV_GUARDED_BY(mutex_);
    std::vector<Slot> spent_ NDV_GUARDED_BY(mutex_);  // go back to the table when unused
    core::Mapped mapped_ NDV_GUARDED_BY(mutex_);
    // Grows to the most that were in use at once; then posting allocates nothing.
    std::vector<std::unique_ptr<Mapping>> free_ NDV_GUARDED_BY(mutex_);
};

using FastRegisterMemoryRegion = core::MappableFront<core::FastRegisterMemoryRegion, Mappable>;
using MemoryWindow = core::MappableFront<core::MemoryWindow, Mappable>;

// A logical address is the token of an entry, and the offset from the first page of what the entry
// covers: at most 4 GiB, so a longer buffer has several entries. Takes the reference over, also
// when it fails.
[[nodiscard]] Expected<std::shared_ptr<core::LogicalAddressMapping>> make_lam(
    std::shared_ptr<MemoryTable> table, core::BufferHold* hold);
// The part of a mapped buffer at logical addresses; null when the range is not in one.
struct LogicalRange {
    std::byte* data = nullptr;
    core::BufferHold* hold = nullptr;  // with a reference for the caller
};
[[nodiscard]] LogicalRange find_logical(MemoryTable& table, std::uint64_t address,
                                        std::uint64_t length);
// The page itself, whose first bytes need not be of the buffer; null as above.
[[nodiscard]] std::byte* find_logical_page(MemoryTable& table, std::uint64_t address);

}  // namespace ndv::soft

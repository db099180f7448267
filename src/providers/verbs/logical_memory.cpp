// SPDX-License-Identifier: Apache-2.0
// Building mappings, and registering what they map.
#include "providers/verbs/logical_memory.hpp"

#include <cerrno>
#include <string>
#include <utility>

namespace ndv::verbs {
namespace {

constexpr std::uint64_t kOffsetMask = (std::uint64_t{1} << LamTable::kOffsetBits) - 1;
constexpr std::uint64_t kMostMappings = std::uint64_t{1} << (64 - LamTable::kOffsetBits);

std::uint64_t number_of(std::uint64_t logical) { return logical >> LamTable::kOffsetBits; }

}  // namespace

RegisteredMemory register_memory(const OwnedDomain& domain, std::byte* data, std::uint64_t size,
                                 std::uint64_t named, int access) {
    const bool has_windows = domain.device()->info().max_window_size > 0;
    // Kernels ask for write permission on memory that windows may be bound over, and not all memory
    // gives it.
    for (const bool is_bindable : {true, false}) {
        if (is_bindable && !has_windows) continue;
        const int wanted = is_bindable ? access | IBV_ACCESS_MW_BIND : access;
        ibv_mr* const mr = named == reinterpret_cast<std::uint64_t>(data)
                               ? ibv_reg_mr(domain.get(), data, size, wanted)
                               : ibv_reg_mr_iova(domain.get(), data, size, named, wanted);
        if (mr != nullptr) return {mr, is_bindable};
        if (errno != EFAULT) break;
    }
    return {};
}

DeviceRegion* DeviceRegion::create(std::shared_ptr<OwnedDomain> domain, core::BufferHold& buffer,
                                   std::byte* data, std::uint64_t size, std::uint64_t named) {
    const int access = buffer.is_writable() ? IBV_ACCESS_LOCAL_WRITE : 0;
    const auto [mr, is_bindable] = register_memory(*domain, data, size, named, access);
    if (mr == nullptr) return nullptr;
    return new DeviceRegion(std::move(domain), buffer, data, size, mr, is_bindable);
}

DeviceRegion::DeviceRegion(std::shared_ptr<OwnedDomain> domain, core::BufferHold& buffer,
                           std::byte* data, std::uint64_t size, ibv_mr* mr, bool is_bindable)
    : BufferHold(data, size, buffer.is_writable()),
      domain_(std::move(domain)),
      buffer_(buffer),
      mr_(mr),
      is_bindable_(is_bindable) {
    buffer_.add_reference();
}

void DeviceRegion::give_back() noexcept {
    if (!domain_->device()->is_foreign()) ibv_dereg_mr(mr_);
    buffer_.release();
    delete this;
}

LogicalMemory::~LogicalMemory() {
    for (const auto& [domain, region] : regions_) region->release();
    hold_->release();
}

std::uint64_t LogicalMemory::lead() const {
    return reinterpret_cast<std::uint64_t>(hold_->data()) % core::page_size();
}

std::byte* LogicalMemory::at(std::uint64_t logical, std::uint64_t length) const {
    const std::uint64_t offset = logical & kOffsetMask;
    if (offset < lead() || length > hold_->size() || offset - lead() > hold_->size() - length) {
        return nullptr;
    }
    return hold_->data() + (offset - lead());
}

std::uint64_t LogicalMemory::page_address(std::uint64_t logical) const {
    return reinterpret_cast<std::uint64_t>(hold_->data()) - lead() + (logical & kOffsetMask);
}

DeviceRegion* LogicalMemory::region_for(const std::shared_ptr<OwnedDomain>& domain) {
    const base::Lock lock(mutex_);
    DeviceRegion*& region = regions_[domain.get()];
    if (region == nullptr) {
        region = DeviceRegion::create(domain, *hold_, hold_->data(), hold_->size(),
                                      reinterpret_cast<std::uint64_t>(hold_->data()));
    }
    if (region == nullptr) {
        regions_.erase(domain.get());
        return nullptr;
    }
    region->add_reference();
    return region;
}

std::uint64_t LamTable::add(std::shared_ptr<LogicalMemory> memory) {
    const base::Lock lock(mutex_);
    if (mappings_.size() + 1 >= kMostMappings) return 0;
    // Numbers come round as late as possible; 0 is none, so that no logical address is 0.
    while (next_ == 0 || mappings_.contains(next_)) next_ = (next_ + 1) % kMostMappings;
    const std::uint64_t number = next_;
    next_ = (next_ + 1) % kMostMappings;
    mappings_[number] = std::move(memory);
    return number << kOffsetBits;
}

void LamTable::remove(std::uint64_t first_page) {
    std::shared_ptr<LogicalMemory> gone;
    const base::Lock lock(mutex_);
    const auto found = mappings_.find(number_of(first_page));
    if (found == mappings_.end()) return;
    gone = std::move(found->second);
    mappings_.erase(found);
}

std::shared_ptr<LogicalMemory> LamTable::find(std::uint64_t logical) const {
    const base::Lock lock(mutex_);
    const auto found = mappings_.find(number_of(logical));
    return found == mappings_.end() ? nullptr : found->second;
}

namespace {

class LogicalAddressMapping final : public core::LogicalAddressMapping {
public:
    LogicalAddressMapping(std::shared_ptr<LamTable> table, std::uint64_t first_page,
                          const LogicalMemory& memory)
        : table_(std::move(table)),
          size_(memory.hold().size()),
          first_byte_offset_(static_cast<std::uint32_t>(memory.lead())) {
        const std::uint64_t page = core::page_size();
        const std::uint64_t end = memory.lead() + size_;
        pages_.reserve((end + page - 1) / page);
        for (std::uint64_t at = 0; at < end; at += page) pages_.push_back(first_page | at);
    }
    ~LogicalAddressMapping() override {
        if (!is_foreign()) close();
    }

    [[nodiscard]] std::span<const std::uint64_t> pages() const override { return pages_; }
    [[nodiscard]] std::uint32_t first_byte_offset() const override { return first_byte_offset_; }
    [[nodiscard]] std::uint64_t size() const override { return size_; }

private:
    void do_close() override { table_->remove(pages_.front()); }

    const std::shared_ptr<LamTable> table_;
    const std::uint64_t size_;
    const std::uint32_t first_byte_offset_;
    std::vector<std::uint64_t> pages_;
};

}  // namespace

Expected<std::shared_ptr<core::LogicalAddressMapping>> make_lam(std::shared_ptr<LamTable> table,
                                                                core::BufferHold* hold) {
    const auto memory = std::make_shared<LogicalMemory>(hold);
    if (hold->size() + memory->lead() > kOffsetMask) {
        return fail(Status::implementation_limit,
                    "build_lam: " + std::to_string(hold->size()) +
                        " bytes; this adapter maps up "
                        "to 1 TiB at once",
                    "map it in parts");
    }
    const std::uint64_t first_page = table->add(memory);
    if (first_page == 0) {
        return fail(Status::insufficient_resources, "build_lam: the adapter's table is full",
                    "release mappings that are no longer used");
    }
    return std::shared_ptr<core::LogicalAddressMapping>(
        std::make_shared<LogicalAddressMapping>(std::move(table), first_page, *memory));
}

}  // namespace ndv::verbs

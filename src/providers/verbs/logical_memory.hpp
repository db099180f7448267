// SPDX-License-Identifier: Apache-2.0
// Logical address mappings of the verbs provider. A logical address is a number of the mapping and
// an offset from its first page. A device needs memory registered in a protection domain: that
// happens when a request of the domain names it for the first time.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <unordered_map>

#include "base/mutex.hpp"
#include "core/mapping.hpp"
#include "providers/verbs/device.hpp"

namespace ndv::verbs {

// Registers memory so that windows can be bound over it, where that can be had. `named` is the
// address by which the device knows the first byte. Null: errno tells why.
struct RegisteredMemory {
    ibv_mr* mr = nullptr;
    bool is_bindable = false;
};
[[nodiscard]] RegisteredMemory register_memory(const OwnedDomain& domain, std::byte* data,
                                               std::uint64_t size, std::uint64_t named, int access);

// Registered memory, without remote rights, that windows may be bound over. Counted by each owner
// that may have the device work with it; keeps the buffer.
class DeviceRegion final : public core::BufferHold {
public:
    // Null: errno tells why.
    [[nodiscard]] static DeviceRegion* create(std::shared_ptr<OwnedDomain> domain,
                                              core::BufferHold& buffer, std::byte* data,
                                              std::uint64_t size, std::uint64_t named);
    DeviceRegion(std::shared_ptr<OwnedDomain> domain, core::BufferHold& buffer, std::byte* data,
                 std::uint64_t size, ibv_mr* mr, bool is_bindable);
    ~DeviceRegion() override = default;
    [[nodiscard]] ibv_mr* get() const { return mr_; }
    [[nodiscard]] bool is_bindable() const { return is_bindable_; }

private:
    void give_back() noexcept override;

    const std::shared_ptr<OwnedDomain> domain_;
    core::BufferHold& buffer_;  // one reference
    ibv_mr* const mr_;
    const bool is_bindable_;
};

// One mapped buffer, until its mapping is closed; requests keep what they need of it.
class LogicalMemory {
public:
    // Takes the reference over.
    explicit LogicalMemory(core::BufferHold* hold) : hold_(hold) {}
    LogicalMemory(const LogicalMemory&) = delete;
    LogicalMemory& operator=(const LogicalMemory&) = delete;
    ~LogicalMemory();

    [[nodiscard]] core::BufferHold& hold() const { return *hold_; }
    [[nodiscard]] std::uint64_t lead() const;  // bytes of the first page before the buffer
    // Null: not all of the range is the buffer's.
    [[nodiscard]] std::byte* at(std::uint64_t logical, std::uint64_t length) const;
    // Of the page itself, whose first bytes need not be the buffer's.
    [[nodiscard]] std::uint64_t page_address(std::uint64_t logical) const;
    // With one reference more, which the caller owns; null when the device refuses.
    [[nodiscard]] DeviceRegion* region_for(const std::shared_ptr<OwnedDomain>& domain);

private:
    core::BufferHold* const hold_;
    base::Mutex mutex_;
    std::map<const OwnedDomain*, DeviceRegion*> regions_ NDV_GUARDED_BY(mutex_);
};

// The mappings of one adapter.
class LamTable {
public:
    // 16 Mi mappings of up to 1 TiB.
    static constexpr unsigned kOffsetBits = 40;

    // The logical address of the first page; 0: too many mappings.
    [[nodiscard]] std::uint64_t add(std::shared_ptr<LogicalMemory> memory);
    void remove(std::uint64_t first_page);
    [[nodiscard]] std::shared_ptr<LogicalMemory> find(std::uint64_t logical) const;
    // For local tokens that are no device's: another one for each, in all domains of the adapter.
    // relaxed: nothing else depends on it.
    [[nodiscard]] std::uint32_t next_number() {
        return kFirstNumber + (numbers_.fetch_add(1, std::memory_order_relaxed) & ~kFirstNumber);
    }

private:
    // Common devices count their keys from below.
    static constexpr std::uint32_t kFirstNumber = 0xC0000000;

    std::atomic<std::uint32_t> numbers_{0};
    mutable base::Mutex mutex_;
    std::unordered_map<std::uint64_t, std::shared_ptr<LogicalMemory>> mappings_
        NDV_GUARDED_BY(mutex_);
    std::uint64_t next_ NDV_GUARDED_BY(mutex_) = 1;
};

// Takes the reference over, also when it fails.
[[nodiscard]] Expected<std::shared_ptr<core::LogicalAddressMapping>> make_lam(
    std::shared_ptr<LamTable> table, core::BufferHold* hold);

}  // namespace ndv::verbs

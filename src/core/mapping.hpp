// SPDX-License-Identifier: Apache-2.0
// Memory that is mapped by requests instead of by calls: logical address mappings, fast-register
// regions, memory windows, and the requests that fill and empty them. Source: NDKPI BuildLam,
// FastRegister, Bind, Invalidate.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/expected.hpp"
#include "base/live.hpp"
#include "base/mutex.hpp"
#include "core/memory.hpp"
#include "core/object.hpp"
#include "core/types.hpp"

namespace ndv::core {

// The adapter's page is the host's.
[[nodiscard]] std::uint64_t page_size();

// Pages of one buffer by their logical addresses, which mean something to this adapter only.
// Closing it is NDK's ReleaseLam: its addresses are dead at once, the buffer stays while a request
// or a region that is filled with its pages needs it.
class LogicalAddressMapping : public Object, base::Live<base::LiveKind::logical_address_mapping> {
public:
    // One per page, constant; pages are in the order of the buffer.
    [[nodiscard]] virtual std::span<const std::uint64_t> pages() const = 0;
    // Of the buffer, in the first page.
    [[nodiscard]] virtual std::uint32_t first_byte_offset() const = 0;
    [[nodiscard]] virtual std::uint64_t size() const = 0;
};

// What a region or window names since its last fast_register or bind was posted.
struct Mapped {
    std::uint64_t address = 0;  // by which both sides name the first byte
    std::uint64_t size = 0;
    std::uint32_t rights = 0;  // access::k*
    Tokens tokens;
};

// State, seen from the queue: free, posting (a fast_register is posted), valid, invalidating, free.
// A fast_register of a region that is valid by its turn, and an invalidate of one that is not,
// complete with INVALID_DEVICE_REQUEST.
class FastRegisterMemoryRegion : public Object,
                                 base::Live<base::LiveKind::fast_register_memory_region> {
public:
    FastRegisterMemoryRegion(std::shared_ptr<ProtectionDomain> pd, std::uint32_t max_pages,
                             bool allows_remote)
        : pd_(std::move(pd)), max_pages_(max_pages), allows_remote_(allows_remote) {}

    [[nodiscard]] const std::shared_ptr<ProtectionDomain>& pd() const { return pd_; }
    [[nodiscard]] std::uint32_t max_pages() const { return max_pages_; }
    [[nodiscard]] bool allows_remote() const { return allows_remote_; }
    // The new tokens are there when the posting call has returned.
    [[nodiscard]] virtual Mapped mapped() const = 0;

private:
    const std::shared_ptr<ProtectionDomain> pd_;
    const std::uint32_t max_pages_;
    const bool allows_remote_;
};

// A part of a registered region with a remote token of its own; belongs to the queue pair that
// bound it until it is invalidated.
class MemoryWindow : public Object, base::Live<base::LiveKind::memory_window> {
public:
    explicit MemoryWindow(std::shared_ptr<ProtectionDomain> pd) : pd_(std::move(pd)) {}

    [[nodiscard]] const std::shared_ptr<ProtectionDomain>& pd() const { return pd_; }
    [[nodiscard]] virtual Mapped mapped() const = 0;

private:
    const std::shared_ptr<ProtectionDomain> pd_;
};

// A front over what a provider maps memory with: its mapped() and close().
template <typename Front, typename Mappable>
class MappableFront final : public Front {
public:
    template <typename... Arguments>
    MappableFront(std::shared_ptr<ProtectionDomain> pd, std::shared_ptr<Mappable> mappable,
                  Arguments... arguments)
        : Front(std::move(pd), arguments...), mappable_(std::move(mappable)) {}
    ~MappableFront() override {
        if (!this->is_foreign()) this->close();
    }
    [[nodiscard]] Mapped mapped() const override { return mappable_->mapped(); }
    [[nodiscard]] const std::shared_ptr<Mappable>& mappable() const { return mappable_; }

private:
    void do_close() override { mappable_->close(); }
    const std::shared_ptr<Mappable> mappable_;
};

// What these three requests share: fields of WorkRequest.
struct MappingRequest {
    std::uint32_t flags = 0;
    bool context_is_object = false;
    std::uint64_t context = 0;
};

struct FastRegisterRequest : MappingRequest {
    FastRegisterMemoryRegion* region = nullptr;
    std::span<const std::uint64_t> pages;  // logical addresses, read during the call
    std::uint64_t first_byte_offset = 0;
    std::uint64_t length = 0;
    std::uint64_t base_address = 0;
};

struct BindRequest : MappingRequest {
    MemoryWindow* window = nullptr;
    std::shared_ptr<MemoryRegion> region;
    std::uint64_t address = 0;
    std::uint64_t length = 0;
};

struct InvalidateRequest : MappingRequest {
    FastRegisterMemoryRegion* region = nullptr;  // one of the two
    MemoryWindow* window = nullptr;
};

// The access rights that flags of bind and fast_register give.
[[nodiscard]] std::uint32_t rights_of_flags(std::uint32_t flags);

}  // namespace ndv::core

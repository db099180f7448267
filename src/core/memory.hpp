// SPDX-License-Identifier: Apache-2.0
// Memory: the hold on a caller's buffer, regions that register it, and protection domains that
// find and check local memory for requests. Source: NDKPI MR and PD dispatch.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "base/expected.hpp"
#include "base/live.hpp"
#include "base/mutex.hpp"
#include "base/pages.hpp"
#include "core/object.hpp"
#include "core/ranges.hpp"
#include "core/types.hpp"

namespace ndv::core {

class Adapter;
class CompletionQueue;
class FastRegisterMemoryRegion;
class MemoryWindow;
class QueuePair;
class SharedReceiveQueue;
struct SharedReceiveQueueLimits;

// Keeps a caller's buffer where it is. Counted by the region that registers it and by every
// posted request that names it; the last release may come from any thread and hands the buffer
// back without taking the GIL.
class BufferHold : base::Live<base::LiveKind::buffer_hold> {
public:
    BufferHold(std::byte* data, std::uint64_t size, bool is_writable)
        : data_(data), size_(size), is_writable_(is_writable) {}

    [[nodiscard]] std::byte* data() const { return data_; }
    [[nodiscard]] std::uint64_t size() const { return size_; }
    [[nodiscard]] bool is_writable() const { return is_writable_; }

    void add_reference() { count_.fetch_add(1, std::memory_order_relaxed); }
    // Posted requests that name it: all references but its region's. With none, those that find it
    // from now on see is_sealed(), and must let go.
    [[nodiscard]] std::uint32_t seal() {
        std::uint32_t count = 1;
        // acquire: pairs with release().
        count_.compare_exchange_strong(count, 1 | kSealed, std::memory_order_acquire);
        return count - 1;
    }
    // After add_reference(), which has either made seal() fail or comes after it.
    [[nodiscard]] bool is_sealed() const {
        return (count_.load(std::memory_order_relaxed) & kSealed) != 0;
    }
    void release() {
        // acq_rel: pairs with itself: the thread that gives the buffer back has seen all uses.
        if ((count_.fetch_sub(1, std::memory_order_acq_rel) & ~kSealed) == 1) give_back();
    }

protected:
    virtual ~BufferHold() = default;
    virtual void give_back() noexcept = 0;  // frees this
    // For one that is kept instead of freed: counts from one again.
    void revive() { count_.store(1, std::memory_order_relaxed); }

private:
    static constexpr std::uint32_t kSealed = 0x80000000;

    std::byte* const data_;
    const std::uint64_t size_;
    const bool is_writable_;
    std::atomic<std::uint32_t> count_{1};
};

// Local memory of one request, checked: the request owns one reference to the hold.
struct LocalBuffer {
    std::byte* data = nullptr;
    std::uint32_t length = 0;
    BufferHold* hold = nullptr;             // null for inline data
    const base::PageList* pages = nullptr;  // not null: scattered, and `data` is not set
    std::uint64_t offset = 0;               // in `pages`
    std::uint32_t key = 0;                  // the device's name for it, where there is a device
    std::byte* host = nullptr;  // not null: `data` is the device's address, and this our own

    // The address in this process; not of scattered memory.
    [[nodiscard]] std::byte* begin() const { return host != nullptr ? host : data; }
    // Copies the bytes and returns where they end.
    std::byte* copy_to(std::byte* to) const;
};

// One behind the other.
inline void copy(std::span<const LocalBuffer> buffers, std::byte* to) {
    for (const LocalBuffer& buffer : buffers) to = buffer.copy_to(to);
}

struct Tokens {
    std::uint32_t local = 0;
    std::uint32_t remote = 0;  // 0: no remote right was given
};

class ProtectionDomain;

class MemoryRegion : public Object, base::Live<base::LiveKind::memory_region> {
public:
    explicit MemoryRegion(std::shared_ptr<ProtectionDomain> pd);
    ~MemoryRegion() override;

    // Takes over the caller's reference to `hold`, also when it fails.
    [[nodiscard]] Expected<void> register_buffer(BufferHold* hold, std::uint32_t rights);
    // The token is dead and remote access has ended before this returns. It waits for the steps
    // that go on right now (microseconds), also of processes of this host that map the memory, and
    // for no other peer. Refused while posted requests name the region: its memory is the caller's
    // own again when this has succeeded. False: one of those processes, which may be stopped, has
    // the memory in hand still, after so long; the token is dead, and the next call waits on.
    [[nodiscard]] Expected<bool> deregister(std::chrono::nanoseconds patience);
    // The same also while posted requests name it, which keep the memory until they end. close()
    // does this, has a second's patience, and leaves the memory to who has it in hand then.
    [[nodiscard]] Expected<bool> end_access(std::chrono::nanoseconds patience);

    [[nodiscard]] bool is_registered() const;
    [[nodiscard]] Tokens tokens() const;
    [[nodiscard]] std::uint64_t address() const;
    [[nodiscard]] std::uint64_t size() const;
    [[nodiscard]] std::uint32_t rights() const;
    [[nodiscard]] const std::shared_ptr<ProtectionDomain>& pd() const { return pd_; }

    // From the provider: a window over this region is bound, or its bind is posted. While there is
    // one, deregister() refuses, and closing the region takes effect with the last one's end.
    // False: nothing is registered.
    [[nodiscard]] bool add_window();
    void remove_window();
    // The buffer with one more reference, which the caller owns; null when nothing is registered.
    [[nodiscard]] BufferHold* share_hold() const;

protected:
    [[nodiscard]] virtual Expected<Tokens> do_register(BufferHold& hold, std::uint32_t rights) = 0;
    // The tokens name nothing when this returns, and no step of this process uses what they named.
    virtual void do_deregister(const Tokens& tokens) = 0;
    // Nor does another process that maps it. False: one does, after so long.
    [[nodiscard]] virtual bool await_peers(const Tokens&, std::chrono::nanoseconds) { return true; }
    // Gives the reference back when they do not any more.
    virtual void leave_to_peers(const Tokens&, BufferHold& hold) { hold.release(); }
    void do_close() override;

private:
    // Forced: also while posted requests use the memory.
    [[nodiscard]] Expected<bool> end_registration(bool is_forced,
                                                  std::chrono::nanoseconds patience);
    void close_within(std::chrono::nanoseconds patience);
    // Of what these tokens named; null: it is gone.
    [[nodiscard]] BufferHold* take_buffer(const Tokens& ended);
    [[nodiscard]] bool has_buffer() const NDV_REQUIRES(mutex_) {
        return hold_ != nullptr && !has_ended_;
    }
    [[nodiscard]] Range range() const NDV_REQUIRES(mutex_);

    const std::shared_ptr<ProtectionDomain> pd_;
    mutable base::Mutex mutex_;
    BufferHold* hold_ NDV_GUARDED_BY(mutex_) = nullptr;
    Tokens tokens_ NDV_GUARDED_BY(mutex_);
    std::uint32_t rights_ NDV_GUARDED_BY(mutex_) = 0;
    std::uint32_t windows_ NDV_GUARDED_BY(mutex_) = 0;
    bool has_ended_ NDV_GUARDED_BY(mutex_) = false;  // the buffer is kept for another process
};

class ProtectionDomain : public Object, base::Live<base::LiveKind::protection_domain> {
public:
    [[nodiscard]] virtual const AdapterInfo& info() const = 0;
    [[nodiscard]] Expected<std::shared_ptr<MemoryRegion>> create_mr();
    [[nodiscard]] Expected<std::shared_ptr<FastRegisterMemoryRegion>> create_fast_register_mr(
        std::uint32_t max_pages, bool remote_access);
    [[nodiscard]] Expected<std::shared_ptr<MemoryWindow>> create_mw();
    // The token with which segments name logical addresses of this adapter's mappings.
    [[nodiscard]] Expected<std::uint32_t> privileged_token();
    // `srq`: null, or the shared queue from which the queue pair takes its receives.
    [[nodiscard]] Expected<std::shared_ptr<QueuePair>> create_qp(
        std::shared_ptr<CompletionQueue> receive_cq, std::shared_ptr<CompletionQueue> initiator_cq,
        std::shared_ptr<SharedReceiveQueue> srq, QueuePairLimits limits, RequestContexts* contexts);
    [[nodiscard]] Expected<std::shared_ptr<SharedReceiveQueue>> create_srq(
        const SharedReceiveQueueLimits& limits, RequestContexts* contexts,
        std::function<void(Status)> on_notify);

    // Pages of zeroes that processes of this host can map, and that are there once they are
    // touched. Null: ordinary memory will do.
    [[nodiscard]] virtual Expected<std::shared_ptr<std::byte>> lend_pages(std::size_t) {
        return std::shared_ptr<std::byte>();
    }

    // Checks one local segment for a request of this domain and takes a reference to its buffer.
    [[nodiscard]] virtual Status acquire_local(const Segment& segment, std::uint32_t rights,
                                               LocalBuffer& out) = 0;

    // The innermost registered region that contains the range and grants the rights.
    [[nodiscard]] Expected<Segment> find(std::uint64_t address, std::uint64_t length,
                                         std::uint32_t rights) const;

protected:
    explicit ProtectionDomain(std::weak_ptr<Adapter> adapter) : adapter_(std::move(adapter)) {}

    [[nodiscard]] virtual Expected<std::shared_ptr<MemoryRegion>> do_create_mr() = 0;
    // Optional: see AdapterInfo::features.
    [[nodiscard]] virtual Expected<std::shared_ptr<FastRegisterMemoryRegion>>
    do_create_fast_register_mr(std::uint32_t, bool) {
        return absent("create_fast_register_mr");
    }
    [[nodiscard]] virtual Expected<std::shared_ptr<MemoryWindow>> do_create_mw() {
        return absent("create_mw");
    }
    [[nodiscard]] virtual Expected<std::uint32_t> do_privileged_token() {
        return absent("privileged_token");
    }
    [[nodiscard]] virtual Expected<std::shared_ptr<SharedReceiveQueue>> do_create_srq(
        const SharedReceiveQueueLimits&, RequestContexts*, std::function<void(Status)>) {
        return absent("create_srq");
    }
    // `srq`: null, or of this domain.
    [[nodiscard]] virtual Expected<std::shared_ptr<QueuePair>> do_create_qp(
        std::shared_ptr<CompletionQueue> receive_cq, std::shared_ptr<CompletionQueue> initiator_cq,
        std::shared_ptr<SharedReceiveQueue> srq, const QueuePairLimits& limits,
        RequestContexts* contexts) = 0;
    [[nodiscard]] std::shared_ptr<ProtectionDomain> self() {
        return std::static_pointer_cast<ProtectionDomain>(shared_from_this());
    }
    void do_close() override {}

private:
    friend class MemoryRegion;
    [[nodiscard]] Expected<void> check_limits(const char* call,
                                              const QueuePairLimits& limits) const;
    void adopt(const std::shared_ptr<Object>& object) const;
    template <typename T>
    [[nodiscard]] Expected<std::shared_ptr<T>> adopted(Expected<std::shared_ptr<T>> made) const {
        if (made) adopt(*made);
        return made;
    }

    const std::weak_ptr<Adapter> adapter_;
    mutable base::Mutex mutex_;
    Ranges ranges_ NDV_GUARDED_BY(mutex_);
};

}  // namespace ndv::core

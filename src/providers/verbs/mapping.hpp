// SPDX-License-Identifier: Apache-2.0
// Fast-register regions and windows of the verbs provider: both are type-2 windows of the device,
// bound and invalidated by requests of the send queue. What the device will make of a request is
// known from what was posted before it; what has become of it, from its completion, or from the
// receive that reports a peer's invalidation.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "base/mutex.hpp"
#include "core/mapping.hpp"
#include "providers/verbs/abi/verbs.hpp"
#include "providers/verbs/local_memory.hpp"

namespace ndv::verbs {

class DeviceRegion;
class Mapping;

// One ibv_mw. Its key changes with every bind, in eight of its bits.
class Window {
public:
    [[nodiscard]] static std::shared_ptr<Window> allocate(std::shared_ptr<OwnedDomain> domain);
    Window(std::shared_ptr<OwnedDomain> domain, ibv_mw* mw) : domain_(std::move(domain)), mw_(mw) {}
    Window(const Window&) = delete;
    Window& operator=(const Window&) = delete;
    ~Window() { end(); }

    [[nodiscard]] ibv_mw* get() const { return mw_; }
    // Whatever became of the requests about it: no peer reaches memory through it any more, and a
    // request that comes to its turn fails.
    void end();
    // Its keys come round with the next bind.
    [[nodiscard]] bool is_spent() const { return binds_ >= kMostBinds; }
    void note_bind(std::uint32_t key) {
        mw_->rkey = key;
        ++binds_;
    }

private:
    static constexpr unsigned kMostBinds = 255;
    const std::shared_ptr<OwnedDomain> domain_;
    ibv_mw* mw_;  // null when ended
    unsigned binds_ = 0;
};

// What a posted request does when its turn comes.
enum class Effect : std::uint8_t { none, fill, empty };

// What a fast-register region and a window have in common. Outlives its front object while mappings
// of it are in use.
class Mappable : public std::enable_shared_from_this<Mappable> {
public:
    explicit Mappable(std::shared_ptr<LocalMemory> memory) : memory_(std::move(memory)) {}
    Mappable(const Mappable&) = delete;
    Mappable& operator=(const Mappable&) = delete;

    // Hands a request to the device; owns a reference to the mapping when it succeeds. Called with
    // the mutex held: keys must change in the order of posting.
    using Submit = std::function<Status(ibv_send_wr&, Mapping*, Effect)>;

    [[nodiscard]] Status post(const core::FastRegisterRequest& request, const Submit& submit);
    [[nodiscard]] Status post(const core::BindRequest& request, const Submit& submit);
    [[nodiscard]] Status post(const core::InvalidateRequest&, const Submit& submit) {
        return post_invalidate(submit);
    }
    // `only`: it must be this one that is valid by then.
    [[nodiscard]] Status post_invalidate(const Submit& submit, const Mapping* only = nullptr);
    [[nodiscard]] core::Mapped mapped() const;

    // A request has ended, one way or the other.
    void finish(Mapping& mapping, Effect effect, bool is_success);
    void invalidated_by_peer(Mapping& mapping);
    // The queue pair is gone: what was bound to it is empty.
    void leave(std::uint32_t queue_pair);
    // The front object is closed.
    void close();

    // Makes sure of a window of the device.
    [[nodiscard]] bool has_window();

private:
    friend class Mapping;
    [[nodiscard]] Status add_pages(const core::FastRegisterRequest& request, std::uint32_t rights,
                                   Mapping*& out) NDV_REQUIRES(mutex_);
    [[nodiscard]] bool prepare_window() NDV_REQUIRES(mutex_);
    [[nodiscard]] static Status bindable(Mapping*& mapping);
    [[nodiscard]] Status fill(Mapping& mapping, ibv_mr* target, const Submit& submit)
        NDV_REQUIRES(mutex_);
    // Its tokens are dead.
    void end(Mapping& mapping) NDV_REQUIRES(mutex_);
    // Nothing reaches memory through it any more; returns what the caller releases.
    [[nodiscard]] Mapping* empty() NDV_REQUIRES(mutex_);

    const std::shared_ptr<LocalMemory> memory_;
    mutable base::Mutex mutex_;
    std::shared_ptr<Window> window_ NDV_GUARDED_BY(mutex_);
    Mapping* valid_ NDV_GUARDED_BY(mutex_) = nullptr;  // one reference
    // What is valid when everything posted so far has been executed; null: nothing.
    Mapping* last_ NDV_GUARDED_BY(mutex_) = nullptr;
    core::Mapped mapped_ NDV_GUARDED_BY(mutex_);
};

// One posted fast_register or bind. Counted: by its request, by its owner while it is valid, and by
// every request that names its local token.
class Mapping final : public core::BufferHold {
public:
    Mapping(std::shared_ptr<Mappable> owner, std::shared_ptr<Window> window, std::byte* data,
            std::uint64_t size);

    [[nodiscard]] Mappable& owner() const { return *owner_; }
    // Called by the owner's Submit.
    void bind_to(std::uint32_t queue_pair) { queue_pair_ = queue_pair; }

private:
    friend class Mappable;
    // For the compiler: the caller is the owner, and has its mutex.
    void is_guarded() const NDV_THREAD_ATTRIBUTE(assert_capability(owner_->mutex_)) {}
    void give_back() noexcept override;

    const std::shared_ptr<Mappable> owner_;
    const std::shared_ptr<Window> window_;
    std::uint32_t key_ = 0;         // the device's, with which peers name it
    std::uint32_t queue_pair_ = 0;  // the only one whose peer reaches it
    core::Mapped mapped_;
    // One reference each: pages that follow each other, as registered for all; the same, or others,
    // as registered for this mapping.
    DeviceRegion* base_ = nullptr;
    DeviceRegion* alias_ = nullptr;
    const DeviceRegion* target_ = nullptr;        // which of the two a fast_register is over
    std::shared_ptr<core::MemoryRegion> region_;  // bind: counted there
    // By the peer, or by close(), maybe before its completion was seen.
    bool is_ended_ NDV_GUARDED_BY(owner_->mutex_) = false;
};

using FastRegisterMemoryRegion = core::MappableFront<core::FastRegisterMemoryRegion, Mappable>;
using MemoryWindow = core::MappableFront<core::MemoryWindow, Mappable>;

}  // namespace ndv::verbs

// SPDX-License-Identifier: Apache-2.0
// Life of a mapping from posting to its end.
#include "providers/verbs/mapping.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "providers/verbs/logical_memory.hpp"
#include "providers/verbs/memory.hpp"
#include "providers/verbs/scattered_pages.hpp"

namespace ndv::verbs {
namespace {

// A reference that is let go of without the mutex: made before the lock.
struct Gone {
    Mapping* mapping = nullptr;
    ~Gone() {
        if (mapping != nullptr) mapping->release();
    }
};

}  // namespace

std::shared_ptr<Window> Window::allocate(std::shared_ptr<OwnedDomain> domain) {
    ibv_mw* const mw = ibv_alloc_mw(domain->get(), IBV_MW_TYPE_2);
    return mw == nullptr ? nullptr : std::make_shared<Window>(std::move(domain), mw);
}

void Window::end() {
    ibv_mw* const mw = std::exchange(mw_, nullptr);
    if (mw != nullptr && !domain_->device()->is_foreign()) ibv_dealloc_mw(mw);
}

// ---- mappings -------------------------------------------------------------------------------

Mapping::Mapping(std::shared_ptr<Mappable> owner, std::shared_ptr<Window> window, std::byte* data,
                 std::uint64_t size)
    : BufferHold(data, size, true), owner_(std::move(owner)), window_(std::move(window)) {}

void Mapping::give_back() noexcept {
    if (alias_ != nullptr) alias_->release();
    if (base_ != nullptr) base_->release();
    if (region_) region_->remove_window();
    delete this;
}

// ---- posting --------------------------------------------------------------------------------

bool Mappable::has_window() {
    const base::Lock lock(mutex_);
    return prepare_window();
}

bool Mappable::prepare_window() {
    const bool is_renewed = window_ != nullptr && window_->is_spent() && last_ == nullptr;
    if (window_ == nullptr || window_->get() == nullptr || is_renewed) {
        // Requests that are under way keep the old one.
        window_ = Window::allocate(memory_->domain());
    }
    return window_ != nullptr;
}

// A window is over one piece of memory: pages that follow each other are one, and others may be
// made one.
Status Mappable::add_pages(const core::FastRegisterRequest& request, std::uint32_t rights,
                           Mapping*& out) {
    const std::uint64_t page = core::page_size();
    const bool is_written = (rights & core::access::kLocalWrite) != 0;
    std::vector<std::shared_ptr<LogicalMemory>> memories;
    std::vector<core::BufferHold*> holds;
    std::vector<std::uint64_t> addresses;
    std::byte* data = nullptr;
    bool is_one_piece = true;
    std::uint64_t done = 0;
    for (const std::uint64_t logical : request.pages) {
        if (done == request.length) break;
        const std::uint64_t in_page = done == 0 ? request.first_byte_offset : 0;
        const std::uint64_t size = std::min(page - in_page, request.length - done);
        auto memory = memory_->lams()->find(logical);
        std::byte* const at = memory == nullptr || logical % page != 0
                                  ? nullptr
                                  : memory->at(logical + in_page, size);
        if (at == nullptr || (is_written && !memory->hold().is_writable())) {
            return Status::access_violation;
        }
        if (done == 0) data = at;
        addresses.push_back(memory->page_address(logical));
        is_one_piece =
            is_one_piece && at == data + done && (memories.empty() || memories.back() == memory);
        if (memories.empty() || memories.back() != memory) {
            holds.push_back(&memory->hold());
            memories.push_back(std::move(memory));
        }
        done += size;
    }
    const auto& domain = memory_->domain();
    // The region itself has to end where peers must.
    const bool is_exact = !domain->device()->quirks().bounds_windows;
    if (is_one_piece) {
        DeviceRegion* const base = memories.front()->region_for(domain);
        if (base == nullptr) return Status::insufficient_resources;
        out = new Mapping(shared_from_this(), window_, data, request.length);
        out->base_ = base;
        out->target_ = base;
        if (!is_exact && request.base_address == reinterpret_cast<std::uint64_t>(data)) {
            return bindable(out);
        }
        out->alias_ = DeviceRegion::create(domain, memories.front()->hold(), data, request.length,
                                           request.base_address);
    } else {
        ScatteredPages* const pages = ScatteredPages::create(addresses, holds);
        if (pages == nullptr) {
            return errno == EINVAL ? Status::not_supported : Status::insufficient_resources;
        }
        std::byte* const begin = pages->data() + request.first_byte_offset;
        out = new Mapping(shared_from_this(), window_, begin, request.length);
        out->alias_ =
            DeviceRegion::create(domain, *pages, begin, request.length, request.base_address);
        pages->release();
    }
    out->target_ = out->alias_;
    return bindable(out);
}

// Or released: what the device did not register for windows, or not at all.
Status Mappable::bindable(Mapping*& mapping) {
    const DeviceRegion* const target = mapping->target_;
    if (target != nullptr && target->is_bindable()) return Status::success;
    std::exchange(mapping, nullptr)->release();
    return target == nullptr ? Status::insufficient_resources : Status::access_violation;
}

Status Mappable::post(const core::FastRegisterRequest& request, const Submit& submit) {
    const base::Lock lock(mutex_);
    if (!prepare_window()) return Status::insufficient_resources;
    const std::uint32_t rights = core::rights_of_flags(request.flags);
    Mapping* mapping = nullptr;
    const Status status = add_pages(request, rights, mapping);
    if (status != Status::success) return status;
    mapping->mapped_ = {request.base_address, request.length, rights, {}};
    LocalMemory::Region local;
    local.hold = mapping;
    // The device knows the alias by its base address, and the rest as this process does.
    const bool is_own = mapping->base_ != nullptr;
    local.data = is_own ? mapping->data() : reinterpret_cast<std::byte*>(request.base_address);
    if (!is_own) local.host = mapping->data();
    local.address = request.base_address;
    local.size = request.length;
    local.rights = rights;
    local.key = (is_own ? mapping->base_ : mapping->alias_)->get()->lkey;
    mapping->mapped_.tokens.local = memory_->add(local);
    return fill(*mapping, mapping->target_->get(), submit);
}

Status Mappable::post(const core::BindRequest& request, const Submit& submit) {
    auto& region = static_cast<MemoryRegion&>(*request.region);
    const base::Lock lock(mutex_);
    if (!prepare_window()) return Status::insufficient_resources;
    // From here on it stays registered.
    if (!region.add_window()) return Status::invalid_device_request;
    auto* const mapping = new Mapping(shared_from_this(), window_, nullptr, request.length);
    mapping->region_ = request.region;
    if (!region.is_bindable()) {
        mapping->release();
        return Status::access_violation;
    }
    ibv_mr* target = region.handle();
    if (!memory_->domain()->device()->quirks().bounds_windows) {
        core::BufferHold* const hold = region.share_hold();
        mapping->alias_ = DeviceRegion::create(memory_->domain(), *hold,
                                               reinterpret_cast<std::byte*>(request.address),
                                               request.length, request.address);
        hold->release();
        if (mapping->alias_ == nullptr) {
            mapping->release();
            return Status::insufficient_resources;
        }
        target = mapping->alias_->get();
    }
    const std::uint32_t rights = core::rights_of_flags(request.flags);
    mapping->mapped_ = {request.address, request.length, rights, {}};
    return fill(*mapping, target, submit);
}

Status Mappable::fill(Mapping& mapping, ibv_mr* target, const Submit& submit) {
    const std::uint32_t rights = mapping.mapped_.rights;
    ibv_mw* const mw = window_->get();
    mapping.key_ = ibv_inc_rkey(mw->rkey);
    if ((rights & core::access::kRemote) != 0) mapping.mapped_.tokens.remote = mapping.key_;
    memory_->add_remote(mapping.key_, mapping);
    ibv_send_wr wr{};
    wr.opcode = IBV_WR_BIND_MW;
    wr.bind_mw.mw = mw;
    wr.bind_mw.rkey = mapping.key_;
    wr.bind_mw.bind_info.mr = target;
    wr.bind_mw.bind_info.addr = mapping.mapped_.address;
    wr.bind_mw.bind_info.length = mapping.mapped_.size;
    wr.bind_mw.bind_info.mw_access_flags = remote_access(rights);
    const Status status = submit(wr, &mapping, Effect::fill);
    if (status != Status::success) {
        end(mapping);
        mapping.release();
        return status;
    }
    // libibverbs takes the key that the bind replaces from here.
    window_->note_bind(mapping.key_);
    // One that is posted over something valid fails at its turn, and all behind it.
    if (last_ == nullptr) last_ = &mapping;
    mapped_ = mapping.mapped_;
    return status;
}

Status Mappable::post_invalidate(const Submit& submit, const Mapping* only) {
    const base::Lock lock(mutex_);
    if (!prepare_window()) return Status::insufficient_resources;
    ibv_send_wr wr{};
    wr.opcode = IBV_WR_LOCAL_INV;
    if (last_ == nullptr || (only != nullptr && last_ != only)) {
        // Must fail at its turn. Kernel rxe crashes when a window is invalidated that is empty: so
        // this names what the window was never called, which every device refuses.
        constexpr std::uint32_t kKeyBits = 0xFF;
        wr.invalidate_rkey = window_->get()->rkey ^ kKeyBits;
        return submit(wr, nullptr, Effect::none);
    }
    wr.invalidate_rkey = last_->key_;
    last_->add_reference();
    const Status status = submit(wr, last_, Effect::empty);
    if (status == Status::success) {
        last_ = nullptr;
    } else {
        last_->release();
    }
    return status;
}

core::Mapped Mappable::mapped() const {
    const base::Lock lock(mutex_);
    return mapped_;
}

// ---- ends -----------------------------------------------------------------------------------

void Mappable::end(Mapping& mapping) {
    mapping.is_guarded();
    if (std::exchange(mapping.is_ended_, true)) return;
    memory_->remove_remote(mapping.key_, mapping);
    if (mapping.mapped_.tokens.local != 0) memory_->remove(mapping.mapped_.tokens.local);
}

Mapping* Mappable::empty() {
    if (window_) window_->end();
    for (Mapping* const mapping : {last_, valid_}) {
        if (mapping == nullptr) continue;
        mapping->window_->end();  // may be an older one
        end(*mapping);
    }
    last_ = nullptr;
    return std::exchange(valid_, nullptr);
}

void Mappable::finish(Mapping& mapping, Effect effect, bool is_success) {
    Gone gone;
    const base::Lock lock(mutex_);
    mapping.is_guarded();
    if (effect == Effect::fill && is_success && !mapping.is_ended_) {
        mapping.add_reference();
        gone.mapping = std::exchange(valid_, &mapping);
        // The device would have refused, had a peer not emptied it before.
        if (gone.mapping != nullptr) end(*gone.mapping);
    } else if (effect == Effect::fill && !is_success) {
        // The connection is over, and it is unknown what the device has done before its end.
        mapping.window_->end();
        end(mapping);
        if (mapping.window_ == window_) gone.mapping = empty();
    } else if (effect == Effect::empty && is_success) {
        end(mapping);
        if (valid_ == &mapping) gone.mapping = std::exchange(valid_, nullptr);
    } else if (effect == Effect::empty && valid_ == &mapping && last_ == nullptr) {
        last_ = &mapping;  // as valid as before
    }
}

void Mappable::invalidated_by_peer(Mapping& mapping) {
    Gone gone;
    const base::Lock lock(mutex_);
    end(mapping);
    if (last_ == &mapping) last_ = nullptr;
    if (valid_ == &mapping) gone.mapping = std::exchange(valid_, nullptr);
}

void Mappable::leave(std::uint32_t queue_pair) {
    Gone gone;
    const base::Lock lock(mutex_);
    const auto is_its = [queue_pair](const Mapping* mapping) {
        return mapping != nullptr && mapping->queue_pair_ == queue_pair;
    };
    if (is_its(valid_) || is_its(last_)) gone.mapping = empty();
}

void Mappable::close() {
    Gone gone;
    const base::Lock lock(mutex_);
    mapped_ = core::Mapped{};
    gone.mapping = empty();
}

}  // namespace ndv::verbs

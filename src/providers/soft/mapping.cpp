// SPDX-License-Identifier: Apache-2.0
// Life of a mapping from posting to its end, and logical addresses.
#include "providers/soft/mapping.hpp"

#include <algorithm>
#include <bit>
#include <utility>

namespace ndv::soft {
namespace {

constexpr std::uint64_t kLamEntrySize = std::uint64_t{1} << 32U;

std::uint32_t token_of(std::uint64_t logical) { return static_cast<std::uint32_t>(logical >> 32U); }
std::uint64_t offset_of(std::uint64_t logical) { return logical & (kLamEntrySize - 1); }

unsigned page_shift() { return static_cast<unsigned>(std::countr_zero(core::page_size())); }

// A pinned entry of a logical address mapping, for a scope.
class PinnedLam {
public:
    PinnedLam() = default;
    PinnedLam(const PinnedLam&) = delete;
    PinnedLam& operator=(const PinnedLam&) = delete;
    ~PinnedLam() { let_go(); }

    // Null: the token is of no mapping.
    [[nodiscard]] const EntryContent* get(MemoryTable& table, std::uint32_t token) {
        if (entry_ != nullptr && token == token_) return &entry_->content;
        let_go();
        entry_ = table.pin(token);
        if (entry_ == nullptr) return nullptr;
        token_ = token;
        if (entry_->content.kind == EntryKind::lam) return &entry_->content;
        let_go();
        return nullptr;
    }

private:
    void let_go() {
        if (entry_ != nullptr) MemoryTable::unpin(std::exchange(entry_, nullptr));
    }
    MemoryTable::Entry* entry_ = nullptr;
    std::uint32_t token_ = 0;
};

}  // namespace

// ---- mappings -------------------------------------------------------------------------------

Status Mapping::begin(std::uint64_t queue_pair) {
    std::uint32_t free = 0;
    // acq_rel: pairs with end(): what the last one named is done with.
    if (owner_->is_closed_.load(std::memory_order_acquire) ||
        !owner_->live_token_.compare_exchange_strong(free, token_, std::memory_order_acq_rel)) {
        return Status::invalid_device_request;
    }
    add_reference();  // the entry's
    content_.queue_pair = content_.kind == EntryKind::window ? queue_pair : 0;
    owner_->table_->activate(token_, content_);
    leave_queue();  // not before: a look-up finds it in one of the two
    // A close() that looked before is made good here: one of the two sees the other.
    EntryContent ended;
    if (owner_->is_closed_.load(std::memory_order_seq_cst) &&
        owner_->table_->deactivate(token_, ended)) {
        owner_->end(*this, {});
        return Status::invalid_device_request;
    }
    return Status::success;
}

void Mapping::leave() {
    owner_->live_token_.store(0, std::memory_order_release);  // pairs with begin()
}

void Mapping::leave_queue() {
    if (content_.kind == EntryKind::fast_register) owner_->table_->posted().remove(this);
}

void Mapping::give_back() noexcept {
    for (core::BufferHold* hold : holds_) hold->release();
    holds_.clear();
    if (const auto base = std::exchange(base_, nullptr)) base->remove_window();
    const auto owner = std::exchange(owner_, nullptr);
    owner->put_back(std::unique_ptr<Mapping>(this));
}

// Nothing is in use: mappings hold this.
Mappable::~Mappable() { table_->give_back(slot_.source); }

Status Mappable::take(Mapping*& out) {
    const base::Lock lock(mutex_);
    if (MemoryTable::is_spent(slot_.source)) {
        if (slot_.used > 0) {
            spent_.push_back(slot_);
        } else {
            table_->give_back(slot_.source);
        }
        slot_ = Slot{};
    }
    const std::uint32_t token = table_->next_token(slot_.source);
    if (token == 0) return Status::insufficient_resources;
    ++slot_.used;
    std::unique_ptr<Mapping> taken;
    if (free_.empty()) {
        taken = std::make_unique<Mapping>();
        taken->pages_.reserve(max_pages_);
    } else {
        taken = std::move(free_.back());
        free_.pop_back();
        taken->revive();
    }
    taken->owner_ = shared_from_this();
    taken->token_ = token;
    taken->slot_ = slot_.source.slot;
    taken->content_ = EntryContent{};
    taken->content_.domain = domain_;
    out = taken.release();
    out->content_.hold = out;
    out->content_.mapping = out;
    return Status::success;
}

void Mappable::put_back(std::unique_ptr<Mapping> mapping) {
    const base::Lock lock(mutex_);
    if (mapping->slot_ == slot_.source.slot) {
        --slot_.used;
    } else {
        const auto spent = std::ranges::find_if(
            spent_, [&](const Slot& slot) { return slot.source.slot == mapping->slot_; });
        if (--spent->used == 0) {
            table_->give_back(spent->source);
            spent_.erase(spent);
        }
    }
    free_.push_back(std::move(mapping));
}

// Bytes of the range that a page holds must be the buffer's: what else is in its first and last
// page belongs to others.
Status Mappable::add_pages(const core::FastRegisterRequest& request, std::uint32_t rights,
                           Mapping& to) {
    const std::uint64_t page = core::page_size();
    const bool is_written = (rights & core::access::kLocalWrite) != 0;
    PinnedLam lam;
    std::uint64_t left = request.length;
    std::uint64_t in_page = request.first_byte_offset;
    to.pages_.clear();
    for (const std::uint64_t logical : request.pages) {
        if (left == 0) break;
        const EntryContent* content = lam.get(*table_, token_of(logical));
        const std::uint64_t offset = offset_of(logical);
        const std::uint64_t size = std::min(page - in_page, left);
        if (content == nullptr || offset % page != 0 || offset + in_page < content->address ||
            offset + in_page + size > content->address + content->size ||
            (is_written && !content->hold->is_writable())) {
            return Status::access_violation;
        }
        // By way of integers: the page may begin before the buffer.
        to.pages_.push_back(reinterpret_cast<std::byte*>(
            reinterpret_cast<std::uint64_t>(content->data) + offset - content->address));
        if (to.holds_.empty() || to.holds_.back() != content->hold) {
            content->hold->add_reference();
            to.holds_.push_back(content->hold);
        }
        left -= size;
        in_page = 0;
    }
    return Status::success;
}

Status Mappable::prepare(const core::FastRegisterRequest& request, Mapping*& out) {
    const Status status = take(out);
    if (status != Status::success) return status;
    const std::uint32_t rights = core::rights_of_flags(request.flags);
    const Status added = add_pages(request, rights, *out);
    if (added != Status::success) {
        out->release();
        return added;
    }
    out->list_ = base::PageList(out->pages_, request.first_byte_offset, page_shift());
    EntryContent& content = out->content_;
    content.kind = EntryKind::fast_register;
    content.address = request.base_address;
    content.size = request.length;
    content.rights = rights;
    if (out->list_.is_contiguous(request.length)) {
        content.data = out->pages_.front() + request.first_byte_offset;
    } else {
        content.pages = &out->list_;
    }
    table_->posted().add(out);
    set_mapped(*out, rights);
    return Status::success;
}

Status Mappable::prepare(const core::BindRequest& request, Mapping*& out) {
    const Status status = take(out);
    if (status != Status::success) return status;
    core::BufferHold* const hold = request.region->share_hold();
    if (hold != nullptr) out->holds_.push_back(hold);
    if (hold == nullptr || !request.region->add_window()) {
        out->release();
        return Status::invalid_device_request;
    }
    out->base_ = request.region;
    EntryContent& content = out->content_;
    content.kind = EntryKind::window;
    content.address = request.address;
    content.size = request.length;
    content.rights = core::rights_of_flags(request.flags);
    content.data = hold->data() + (request.address - reinterpret_cast<std::uint64_t>(hold->data()));
    set_mapped(*out, content.rights);
    return Status::success;
}

void Mappable::set_mapped(const Mapping& mapping, std::uint32_t rights) {
    const base::Lock lock(mutex_);
    const bool is_remote = (rights & core::access::kRemote) != 0;
    const bool is_window = mapping.content_.kind == EntryKind::window;
    mapped_ = {mapping.content_.address,
               mapping.content_.size,
               rights,
               {is_window ? 0 : mapping.token_, is_remote ? mapping.token_ : 0}};
}

core::Mapped Mappable::mapped() const {
    const base::Lock lock(mutex_);
    return mapped_;
}

void Mappable::close() {
    is_closed_.store(true, std::memory_order_seq_cst);  // pairs with begin()
    EntryContent ended;
    const std::uint32_t token = live_token_.load(std::memory_order_seq_cst);
    if (token != 0 && table_->deactivate(token, ended)) {
        end(*ended.mapping, std::chrono::nanoseconds::max());
    }
    const base::Lock lock(mutex_);
    mapped_ = core::Mapped{};
}

// With the entry's reference.
void Mappable::end(Mapping& mapping, std::chrono::nanoseconds patience) {
    mapping.leave();
    const std::uint64_t hazard = table_->hazard_for(mapping.token());
    if (table_->await_users(hazard, patience)) {
        mapping.release();
    } else {
        leave_to_peers(table_, hazard, mapping, *progress_);
    }
}

// ---- logical addresses ----------------------------------------------------------------------

namespace {

class LogicalAddressMapping final : public core::LogicalAddressMapping {
public:
    LogicalAddressMapping(std::shared_ptr<MemoryTable> table, core::BufferHold* hold)
        : table_(std::move(table)),
          hold_(hold),
          size_(hold->size()),
          first_byte_offset_(static_cast<std::uint32_t>(
              reinterpret_cast<std::uint64_t>(hold->data()) % core::page_size())) {}
    ~LogicalAddressMapping() override {
        if (!is_foreign()) close();
    }
    // The entries; false: the table is full.
    [[nodiscard]] bool fill() {
        const std::uint64_t page = core::page_size();
        const std::uint64_t lead = first_byte_offset_;
        const std::uint64_t end = lead + size_;  // counted from the first page
        pages_.reserve((end + page - 1) / page);
        for (std::uint64_t begin = 0; begin < end; begin += kLamEntrySize) {
            const std::uint64_t first = begin == 0 ? lead : 0;
            const std::uint64_t covered = std::min(end - begin, kLamEntrySize);
            EntryContent content;
            content.kind = EntryKind::lam;
            content.hold = hold_;
            content.data = hold_->data() + (begin + first - lead);
            content.address = first;
            content.size = covered - first;
            const std::uint32_t token = table_->add(content);
            if (token == 0) return false;
            tokens_.push_back(token);
            for (std::uint64_t at = 0; at < covered; at += page) {
                pages_.push_back((static_cast<std::uint64_t>(token) << 32U) | at);
            }
        }
        return true;
    }

    [[nodiscard]] std::span<const std::uint64_t> pages() const override { return pages_; }
    [[nodiscard]] std::uint32_t first_byte_offset() const override { return first_byte_offset_; }
    [[nodiscard]] std::uint64_t size() const override { return size_; }

private:
    void do_close() override {
        for (const std::uint32_t token : tokens_) table_->remove(token);
        hold_->release();
    }

    const std::shared_ptr<MemoryTable> table_;
    core::BufferHold* const hold_;  // until it is closed
    const std::uint64_t size_;
    const std::uint32_t first_byte_offset_;
    std::vector<std::uint32_t> tokens_;
    std::vector<std::uint64_t> pages_;
};

}  // namespace

Expected<std::shared_ptr<core::LogicalAddressMapping>> make_lam(std::shared_ptr<MemoryTable> table,
                                                                core::BufferHold* hold) {
    auto made = std::make_shared<LogicalAddressMapping>(std::move(table), hold);
    if (!made->fill()) {
        return fail(Status::insufficient_resources,
                    "build_lam: the adapter's table of regions is full",
                    "close regions and mappings that are no longer used");
    }
    return std::shared_ptr<core::LogicalAddressMapping>(std::move(made));
}

LogicalRange find_logical(MemoryTable& table, std::uint64_t address, std::uint64_t length) {
    PinnedLam lam;
    const EntryContent* content = lam.get(table, token_of(address));
    const std::uint64_t offset = offset_of(address);
    if (content == nullptr || offset < content->address || length > content->size ||
        offset - content->address > content->size - length) {
        return {};
    }
    content->hold->add_reference();
    return {content->data + (offset - content->address), content->hold};
}

std::byte* find_logical_page(MemoryTable& table, std::uint64_t address) {
    PinnedLam lam;
    const EntryContent* content = lam.get(table, token_of(address));
    if (content == nullptr) return nullptr;
    return reinterpret_cast<std::byte*>(reinterpret_cast<std::uint64_t>(content->data) +
                                        offset_of(address) - content->address);
}

}  // namespace ndv::soft

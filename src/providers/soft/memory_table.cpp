// SPDX-License-Identifier: Apache-2.0
// STags, pins, and what other processes see of them.
#include "providers/soft/memory_table.hpp"

#include <sched.h>
#include <sys/random.h>

#include <algorithm>
#include <chrono>
#include <new>
#include <optional>
#include <thread>
#include <utility>

#include "base/shortage.hpp"
#include "iwarp/work_queue.hpp"
#include "providers/soft/mapping.hpp"

namespace ndv::soft {
namespace {

constexpr std::uint64_t kValid = 1ULL << 63U;
constexpr std::uint64_t kPinMask = 0xFFFFFFFFULL;

constexpr std::uint64_t live_word(std::uint32_t generation) {
    return kValid | (static_cast<std::uint64_t>(generation) << 32U);
}

}  // namespace

TokenPermutation TokenPermutation::random() {
    std::array<std::uint64_t, 4> key{};
    if (::getrandom(key.data(), sizeof key, 0) != static_cast<ssize_t>(sizeof key)) {
        // Without the kernel's generator, which Linux always has: at least not constant.
        const auto now =
            static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
        for (std::size_t i = 0; i < key.size(); ++i) {
            key[i] = (now + i) * 0x9E3779B97F4A7C15ULL;
        }
    }
    return TokenPermutation(key);
}

std::uint32_t TokenPermutation::round(std::size_t index, std::uint32_t half) const {
    std::uint64_t x = (half ^ key_[index]) * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ (x >> 29U) ^ key_[(index + 1) % key_.size()]) * 0x94D049BB133111EBULL;
    return static_cast<std::uint32_t>(x >> 48U);
}

std::uint32_t TokenPermutation::token(std::uint32_t number) const {
    std::uint32_t left = number >> 16U;
    std::uint32_t right = number & 0xFFFFU;
    for (std::size_t i = 0; i < key_.size(); ++i) {
        const std::uint32_t next = left ^ round(i, right);
        left = right;
        right = next;
    }
    return (left << 16U) | right;
}

std::uint32_t TokenPermutation::number(std::uint32_t token) const {
    std::uint32_t left = token >> 16U;
    std::uint32_t right = token & 0xFFFFU;
    for (std::size_t i = key_.size(); i-- > 0;) {
        const std::uint32_t previous = right ^ round(i, left);
        right = left;
        left = previous;
    }
    return (left << 16U) | right;
}

MemoryTable::MemoryTable() : permutation_(TokenPermutation::random()) {}

MemoryTable::~MemoryTable() {
    // relaxed: no other thread has the table any more.
    for (auto& chunk : chunks_) delete[] chunk.load(std::memory_order_relaxed);
}

MemoryTable::Entry* MemoryTable::entry(std::uint32_t slot) const {
    // acquire: pairs with the release in take_slot(): the entries are constructed.
    Entry* chunk = chunks_[slot / kChunk].load(std::memory_order_acquire);
    return chunk == nullptr ? nullptr : chunk + slot % kChunk;
}

bool MemoryTable::take_slot(TokenSource& source) {
    const base::Lock lock(mutex_);
    if (used_ < kSlots && free_.size() < kRest) {
        source.slot = used_++;
        generations_.push_back(0);
        // release: pairs with entry().
        if (entry(source.slot) == nullptr) {
            chunks_[source.slot / kChunk].store(new Entry[kChunk], std::memory_order_release);
        }
    } else if (!free_.empty()) {
        source.slot = free_.front();
        free_.pop_front();
    } else {
        return false;
    }
    source.generation = generations_[source.slot];
    source.tokens = 0;
    return true;
}

void MemoryTable::give_back(const TokenSource& source) {
    if (source.tokens == 0) return;
    const base::Lock lock(mutex_);
    generations_[source.slot] = static_cast<std::uint16_t>(source.generation);
    free_.push_back(source.slot);
}

std::uint32_t MemoryTable::next_token(TokenSource& source) {
    if (source.tokens == 0 && !take_slot(source)) return 0;
    std::uint32_t token = 0;
    while (token == 0) {  // STag 0 names nothing, ever
        source.generation = (source.generation + 1U) % kGenerations;
        ++source.tokens;
        token = permutation_.token(source.slot | (source.generation << kSlotBits));
    }
    return token;
}

void MemoryTable::activate(std::uint32_t token, const EntryContent& content) {
    const std::uint32_t number = permutation_.number(token);
    Entry* made = entry(number % kSlots);
    made->content = content;
    // Adds, because a stale token may be pinning and unpinning this very entry.
    // release: pairs with the acquire in pin().
    made->word.fetch_add(live_word(number >> kSlotBits), std::memory_order_release);
    if (shared_) show(token, number % kSlots, content);
}

bool MemoryTable::deactivate(std::uint32_t token, EntryContent& ended) {
    const std::uint32_t number = permutation_.number(token);
    Entry* gone = entry(number % kSlots);
    if (gone == nullptr) return false;
    // acq_rel: pairs with activate() and pin(). relaxed: the exchange looks again.
    std::uint64_t word = gone->word.load(std::memory_order_relaxed);
    do {
        if ((word & ~kPinMask) != live_word(number >> kSlotBits)) return false;
    } while (!gone->word.compare_exchange_weak(word, word & kPinMask, std::memory_order_acq_rel));
    if (shared_) hide(number % kSlots);
    // acquire: pairs with the release in unpin(): what the last step did is done.
    while ((gone->word.load(std::memory_order_acquire) & kPinMask) != 0) sched_yield();
    ended = gone->content;
    return true;
}

std::uint32_t MemoryTable::add(const EntryContent& content) {
    TokenSource source;
    const std::uint32_t token = next_token(source);
    if (token != 0) activate(token, content);
    return token;
}

void MemoryTable::remove(std::uint32_t token) {
    EntryContent ended;
    static_cast<void>(deactivate(token, ended));
    const std::uint32_t number = permutation_.number(token);
    give_back({number % kSlots, number >> kSlotBits, 1});
}

MemoryTable::Entry* MemoryTable::pin_number(std::uint32_t number) {
    Entry* found = entry(number % kSlots);
    if (found == nullptr) return nullptr;
    // acquire: pairs with the release in activate().
    const std::uint64_t word = found->word.fetch_add(1, std::memory_order_acquire);
    if ((word & ~kPinMask) == live_word(number >> kSlotBits)) return found;
    unpin(found);
    return nullptr;
}

void MemoryTable::unpin(Entry* entry) {
    entry->word.fetch_sub(1, std::memory_order_release);  // pairs with deactivate()
}

// ---- other processes ------------------------------------------------------------------------

void MemoryTable::share() {
    arena_ = Arena::create();
    shared_file_ = base::make_memory_file("ndverbs-table", sizeof(SharedTable));
    if (!arena_ || !shared_file_) return;
    shared_ = base::FileMapping::map(shared_file_.get(), 0, sizeof(SharedTable), true);
    // A mapping that is there stays writable.
    if (!shared_ || !base::forbid_writing(shared_file_.get())) {
        shared_.reset();
        return;
    }
    reinterpret_cast<SharedTable*>(shared_.data())->key = permutation_.key();
}

std::uint64_t MemoryTable::place_of(const std::byte* data, std::size_t size) const {
    const auto offset = arena_->find(data, size);
    return offset ? place::kInArena | *offset : reinterpret_cast<std::uint64_t>(data);
}

void MemoryTable::show(std::uint32_t token, std::uint32_t slot, const EntryContent& content) {
    SharedLine& shown = line(slot);
    const auto set = [](auto& field, auto value) { field.store(value, std::memory_order_relaxed); };
    set(shown.address, content.address);
    set(shown.size, content.size);
    // Faults are struck by the process that has them: peers carry requests to it.
    set(shown.where, content.pages == nullptr && faults_ == nullptr
                         ? place_of(content.data, content.size)
                         : place::kNowhere);
    set(shown.domain, content.domain);
    set(shown.queue_pair, content.queue_pair);
    set(shown.rights, content.rights);
    set(shown.is_window, content.kind == EntryKind::window ? 1U : 0U);
    // release: pairs with the acquire in FarReach::take().
    shown.live.store(SharedLine::kLive | token, std::memory_order_release);
}

// seq_cst: of a peer that sets its hazard and looks at the line, and of this thread, which looks at
// the hazard next, one sees the other's.
void MemoryTable::hide(std::uint32_t slot) {
    line(slot).live.exchange(0, std::memory_order_seq_cst);
}

// A peer that is stopped with that memory in hand is waited for; one that is dead is not.
bool MemoryTable::await_users(std::uint64_t hazard, std::chrono::nanoseconds patience) {
    std::optional<Time> begun;
    while (const auto user = user_of(hazard)) {
        for (int i = 0; user->touches(hazard); ++i) {
            if (i < 200) continue;
            if (i < 250) {
                sched_yield();
                continue;
            }
            const Time at = now();
            if (!begun) begun = at;
            if (at - *begun >= patience || is_closing_.load(std::memory_order_relaxed)) {
                return false;
            }
            std::this_thread::sleep_for(std::chrono::microseconds(200));
        }
    }
    return true;
}

// One by one: a reference that is made here may become the last one, and its end add another user.
// A user that comes to a place behind this look finds the line hidden.
std::shared_ptr<const FarUser> MemoryTable::user_of(std::uint64_t hazard) {
    if (user_count_.load(std::memory_order_seq_cst) == 0) return nullptr;
    for (std::size_t i = 0;; ++i) {
        std::shared_ptr<const FarUser> user;
        {
            const base::Lock lock(users_mutex_);
            if (i == users_.size()) return nullptr;
            user = users_[i].lock();
        }
        if (user && user->touches(hazard)) return user;
    }
}

void MemoryTable::add_user(const std::weak_ptr<const FarUser>& user) {
    const base::Lock lock(users_mutex_);
    const auto free = std::ranges::find_if(users_, [](const auto& one) { return one.expired(); });
    if (free != users_.end()) {
        *free = user;
    } else {
        users_.push_back(user);
    }
    user_count_.store(users_.size(), std::memory_order_seq_cst);
}

namespace {

class MemoryRemnant final : public Remnant {
public:
    MemoryRemnant(std::shared_ptr<MemoryTable> table, std::uint64_t hazard, core::BufferHold& hold)
        : table_(std::move(table)), hazard_(hazard), hold_(hold) {}
    [[nodiscard]] bool end() override {
        if (table_->is_touched(hazard_)) return false;
        hold_.release();
        return true;
    }

private:
    const std::shared_ptr<MemoryTable> table_;
    const std::uint64_t hazard_;
    core::BufferHold& hold_;
};

}  // namespace

void leave_to_peers(const std::shared_ptr<MemoryTable>& table, std::uint64_t hazard,
                    core::BufferHold& hold, Progress& progress) noexcept {
    std::shared_ptr<MemoryRemnant> made;
    try {
        base::with_memory([&] {
            if (!made) made = std::make_shared<MemoryRemnant>(table, hazard, hold);
            progress.keep(made);
        });
    } catch (const std::bad_alloc&) {
        // Its callers close, and report nothing.
    }
}

// ---- one domain -----------------------------------------------------------------------------

iwarp::AccessResult DomainMemory::pin(std::uint32_t stag, std::uint64_t to, std::uint32_t length,
                                      iwarp::RemoteRight right, iwarp::Pin& out) {
    using iwarp::AccessResult;
    MemoryTable::Entry* entry = table_.pin(stag, memo_);
    if (entry == nullptr) return AccessResult::invalid_stag;
    const EntryContent& content = entry->content;
    const AccessResult result = check_access(content, content.kind == EntryKind::window, domain_,
                                             queue_pair_, to, length, right);
    if (result != AccessResult::granted) {
        MemoryTable::unpin(entry);
        return result;
    }
    const std::uint64_t offset = to - content.address;
    if (content.pages == nullptr) [[likely]] {
        out = {content.data + offset, content.size - offset, 0, entry};
    } else {
        out = {nullptr, 0, offset, entry};
    }
    return result;
}

void DomainMemory::unpin(const iwarp::Pin& pin) {
    MemoryTable::unpin(static_cast<MemoryTable::Entry*>(pin.entry));
}

std::size_t DomainMemory::scatter(const iwarp::Pin& pin, std::uint64_t offset, std::size_t length,
                                  iovec* out, std::size_t max) {
    const EntryContent& content = static_cast<MemoryTable::Entry*>(pin.entry)->content;
    return content.pages->pieces(pin.offset + offset, length, out, max);
}

// A region of register() may not be invalidated, and a window by its own queue pair alone.
bool DomainMemory::may_end(const EntryContent& content) const {
    if (content.kind == EntryKind::fast_register) return true;
    return content.kind == EntryKind::window && content.queue_pair == queue_pair_;
}

iwarp::AccessResult DomainMemory::invalidate(std::uint32_t stag) {
    MemoryTable::Entry* entry = table_.pin(stag);
    if (entry == nullptr) return iwarp::AccessResult::invalid_stag;
    const EntryContent& content = entry->content;
    const bool is_ours = content.domain == domain_;
    // A peer has no business with a token that grants it nothing.
    const bool is_allowed =
        is_ours && may_end(content) && (content.rights & core::access::kRemote) != 0;
    MemoryTable::unpin(entry);
    if (!is_ours) return iwarp::AccessResult::not_associated;
    if (!is_allowed) return iwarp::AccessResult::denied;
    return end(stag) ? iwarp::AccessResult::granted : iwarp::AccessResult::invalid_stag;
}

Status DomainMemory::execute(const iwarp::SendRequest& request) {
    if (request.kind == iwarp::RequestKind::invalidate) return end_local(request.local_token);
    return static_cast<Mapping*>(request.operation)->begin(queue_pair_);
}

Status DomainMemory::invalidate_sink(std::uint32_t stag) { return end_local(stag); }

Status DomainMemory::end_local(std::uint32_t stag) {
    MemoryTable::Entry* entry = table_.pin(stag);
    if (entry == nullptr) return Status::invalid_device_request;
    const bool is_allowed = entry->content.domain == domain_ && may_end(entry->content);
    MemoryTable::unpin(entry);
    return is_allowed && end(stag) ? Status::success : Status::invalid_device_request;
}

// In a step, which does not wait for another process.
bool DomainMemory::end(std::uint32_t stag) {
    EntryContent ended;
    leaving_.reserve(leaving_.size() + 1);
    if (!table_.deactivate(stag, ended)) return false;
    ended.mapping->leave();
    const std::uint64_t hazard = table_.hazard_for(stag);
    if (table_.is_touched(hazard)) {
        leaving_.push_back({hazard, ended.mapping});
    } else {
        ended.mapping->release();
    }
    return true;
}

bool DomainMemory::has_settled() {
    std::erase_if(leaving_, [this](const Leaving& one) {
        if (table_.is_touched(one.hazard)) return false;
        one.mapping->release();
        return true;
    });
    return leaving_.empty();
}

bool DomainMemory::grant_local(const EntryContent& content, const core::Segment& segment,
                               std::uint32_t rights, core::LocalBuffer& out) const {
    const bool is_granted = content.domain == domain_ && content.kind != EntryKind::window &&
                            (content.rights & rights) == rights &&
                            segment.address >= content.address && segment.length <= content.size &&
                            segment.address - content.address <= content.size - segment.length;
    if (!is_granted) return false;
    const std::uint64_t offset = segment.address - content.address;
    out.length = static_cast<std::uint32_t>(segment.length);
    out.hold = content.hold;
    out.pages = content.pages;
    if (content.pages == nullptr) {
        out.data = content.data + offset;
    } else {
        out.offset = offset;
    }
    return true;
}

Status DomainMemory::acquire_local(const core::Segment& segment, std::uint32_t rights,
                                   core::LocalBuffer& out) {
    MemoryTable::Entry* entry = table_.pin(segment.token);
    if (entry == nullptr) [[unlikely]] {
        if (Mapping* const posted = table_.posted().find(segment.token)) {
            const bool is_granted = grant_local(posted->content(), segment, rights, out);
            if (is_granted) out.hold->add_reference();
            posted->release();
            return is_granted ? Status::success : Status::access_violation;
        }
        entry = table_.pin(segment.token);  // its turn may have come between the two
        if (entry == nullptr) return Status::access_violation;
    }
    const bool is_granted = grant_local(entry->content, segment, rights, out);
    if (is_granted) out.hold->add_reference();
    MemoryTable::unpin(entry);
    return is_granted ? Status::success : Status::access_violation;
}

// ---- registrations that are posted ----------------------------------------------------------

void PostedMappings::add(Mapping* mapping) {
    const base::Lock lock(mutex_);
    posted_.push_back(mapping);
}

void PostedMappings::remove(const Mapping* mapping) {
    const base::Lock lock(mutex_);
    std::erase(posted_, mapping);
}

Mapping* PostedMappings::find(std::uint32_t token) {
    const base::Lock lock(mutex_);
    for (Mapping* const mapping : posted_) {
        if (mapping->token() != token) continue;
        mapping->add_reference();
        return mapping;
    }
    return nullptr;
}

}  // namespace ndv::soft

// SPDX-License-Identifier: Apache-2.0
// The memory of one soft adapter: STags, what they name, and the pins that let a step use a region
// while the thread that ends it waits; other processes have hazards instead of pins. Regions,
// windows, fast-register regions and logical address
// mappings are entries of one table. STags come from a keyed permutation: sparse, unpredictable,
// never reused soon.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "base/mutex.hpp"
#include "core/faults.hpp"
#include "core/memory.hpp"
#include "iwarp/remote_memory.hpp"
#include "providers/soft/arena.hpp"
#include "providers/soft/progress.hpp"
#include "providers/soft/shared_table.hpp"

namespace ndv::soft {

// A keyed permutation of 32-bit numbers (a four-round Feistel network).
class TokenPermutation {
public:
    explicit TokenPermutation(const std::array<std::uint64_t, 4>& key) : key_(key) {}
    [[nodiscard]] static TokenPermutation random();
    [[nodiscard]] std::uint32_t token(std::uint32_t number) const;
    [[nodiscard]] std::uint32_t number(std::uint32_t token) const;
    [[nodiscard]] const std::array<std::uint64_t, 4>& key() const { return key_; }

private:
    [[nodiscard]] std::uint32_t round(std::size_t index, std::uint32_t half) const;
    std::array<std::uint64_t, 4> key_;
};

class Mapping;

constexpr std::uint32_t right_bit(iwarp::RemoteRight right) {
    switch (right) {
        case iwarp::RemoteRight::read:
            break;
        case iwarp::RemoteRight::write:
            return core::access::kRemoteWriteBit;
        case iwarp::RemoteRight::atomic:
            return core::access::kRemoteAtomicBit;
    }
    return core::access::kRemoteRead;
}

// The checks of RFC 5040 section 7.2, in the order that siw makes them, of an EntryContent or a
// SharedLine: by the process whose memory it is, or the one that would reach it.
template <typename Content>
[[nodiscard]] iwarp::AccessResult check_access(const Content& content, bool is_window,
                                               std::uint64_t domain, std::uint64_t queue_pair,
                                               std::uint64_t to, std::uint32_t length,
                                               iwarp::RemoteRight right) {
    using iwarp::AccessResult;
    if (content.domain != domain || (is_window && content.queue_pair != queue_pair)) {
        return AccessResult::not_associated;
    }
    if ((content.rights & right_bit(right)) == 0) return AccessResult::denied;
    if (length > 0 && to + (length - 1) < to) return AccessResult::wrap;
    const std::uint64_t address = content.address;
    const std::uint64_t size = content.size;
    if (to < address || length > size || to - address > size - length) return AccessResult::bounds;
    return AccessResult::granted;
}

// A peer in another process, which finds memory by the shared table.
class FarUser {
public:
    FarUser() = default;
    FarUser(const FarUser&) = delete;
    FarUser& operator=(const FarUser&) = delete;
    virtual ~FarUser() = default;
    // It lives, and its hazard has this value.
    [[nodiscard]] virtual bool touches(std::uint64_t hazard) const = 0;
};

// What an entry was made by; it says which calls may end it and how it is addressed.
enum class EntryKind : std::uint8_t {
    region,         // register()
    window,         // bind: of one queue pair
    fast_register,  // fast_register
    lam,            // build_lam: for segments with the privileged token, and for fast_register
};

// What an entry names; written while no other thread can reach it.
struct EntryContent {
    std::byte* data = nullptr;              // of its first byte; scattered memory has none
    const base::PageList* pages = nullptr;  // scattered memory
    core::BufferHold* hold = nullptr;       // kept alive by the maker of the entry
    Mapping* mapping = nullptr;             // window and fast_register: one reference
    std::uint64_t address = 0;              // by which requests name its first byte
    std::uint64_t size = 0;
    std::uint32_t rights = 0;
    EntryKind kind = EntryKind::region;
    std::uint64_t domain = 0;
    std::uint64_t queue_pair = 0;  // window: the one that bound it
};

// A slot of the table with the token that it answers to next.
struct TokenSource {
    std::uint32_t slot = 0;
    std::uint32_t generation = 0;
    std::uint32_t tokens = 0;  // given out since the slot was taken; 0: there is no slot
};

// Fast registrations that wait for their turn in a send queue: local requests behind them may name
// their tokens already, and are the only ones that look here.
class PostedMappings {
public:
    void add(Mapping* mapping);
    // Of one that is here or not. Its request still has its reference.
    void remove(const Mapping* mapping);
    // With a reference for the caller; null when none has the token.
    [[nodiscard]] Mapping* find(std::uint32_t token);

private:
    base::Mutex mutex_;
    std::vector<Mapping*> posted_ NDV_GUARDED_BY(mutex_);  // grows to the most at once
};

class MemoryTable {
public:
    // A number behind a token: slot in the low bits, generation in the high bits.
    static constexpr std::uint32_t kSlotBits = 20;
    static constexpr std::uint32_t kSlots = 1U << kSlotBits;
    static_assert(kSlots == SharedTable::kLines);

    MemoryTable();
    MemoryTable(const MemoryTable&) = delete;
    MemoryTable& operator=(const MemoryTable&) = delete;
    ~MemoryTable();

    // A token that names nothing yet; 0 when the table is full. One caller at a time per source.
    [[nodiscard]] std::uint32_t next_token(TokenSource& source);
    // The next token would be an old one again: take another source, and give this one back when
    // nothing can name it any more.
    [[nodiscard]] static bool is_spent(const TokenSource& source) {
        return source.tokens + 2 >= kGenerations;
    }
    void give_back(const TokenSource& source);
    // The token names `content` from now on; it is of a source and never was given to this before.
    void activate(std::uint32_t token, const EntryContent& content);
    // False: the token names nothing. Otherwise it is dead at once, and this returns when no step
    // of this process uses the memory any more; the caller must hold no pin. `ended` gets what it
    // named. A peer in another process, which may be stopped, may have it in hand still.
    bool deactivate(std::uint32_t token, EntryContent& ended);
    // What such a peer's hazard says.
    [[nodiscard]] std::uint64_t hazard_for(std::uint32_t token) const {
        return hazard_of(permutation_.number(token) % kSlots);
    }
    [[nodiscard]] bool is_touched(std::uint64_t hazard) { return user_of(hazard) != nullptr; }
    // Waits so long that none does any more; false: one does.
    [[nodiscard]] bool await_users(std::uint64_t hazard, std::chrono::nanoseconds patience);
    // From here on that does not wait.
    void stop_waiting() { is_closing_.store(true, std::memory_order_relaxed); }

    // A region's entry: token and slot in one. 0 when the table is full.
    [[nodiscard]] std::uint32_t add(const EntryContent& content);
    void remove(std::uint32_t token);  // as deactivate()

    [[nodiscard]] PostedMappings& posted() { return posted_; }

    // Before there is an entry. Null: none.
    void set_faults(std::shared_ptr<core::Faults> faults) { faults_ = std::move(faults); }
    [[nodiscard]] const std::shared_ptr<core::Faults>& faults() const { return faults_; }

    // Makes the shared table and the arena, before there is an entry. Without them peers in other
    // processes are not direct.
    void share();
    [[nodiscard]] bool is_shared() const { return static_cast<bool>(shared_); }
    [[nodiscard]] int descriptor() const { return shared_file_.get(); }
    [[nodiscard]] const std::shared_ptr<Arena>& arena() const { return arena_; }
    // See place.
    [[nodiscard]] std::uint64_t place_of(const std::byte* data, std::size_t size) const;
    // From here on the end of memory waits for it, for as long as it exists.
    void add_user(const std::weak_ptr<const FarUser>& user);
    [[nodiscard]] static std::uint64_t hazard_of(std::uint32_t slot) { return slot + 2ULL; }

    struct Entry;
    // The number behind the token that was looked up last: requests that follow each other mostly
    // name the same memory.
    struct Memo {
        std::uint32_t token = 0;
        std::uint32_t number = 0;
    };
    // Null when the token names nothing. A pinned entry stays what it is until unpin().
    [[nodiscard]] Entry* pin(std::uint32_t token) { return pin_number(permutation_.number(token)); }
    [[nodiscard]] Entry* pin(std::uint32_t token, Memo& memo) {
        if (token != memo.token || token == 0) memo = {token, permutation_.number(token)};
        return pin_number(memo.number);
    }
    static void unpin(Entry* entry);

    struct Entry {
        // High half: generation and kValid; low half: pins. One word, so that a pin and the
        // check of what was pinned are one atomic step.
        std::atomic<std::uint64_t> word{0};
        EntryContent content;
    };

private:
    static constexpr std::uint32_t kGenerations = 1U << (32 - kSlotBits);
    static constexpr std::uint32_t kChunk = 256;
    // Slots rest this long, counted in later registrations, before they serve again.
    static constexpr std::size_t kRest = 4096;

    [[nodiscard]] Entry* entry(std::uint32_t slot) const;
    [[nodiscard]] Entry* pin_number(std::uint32_t number);
    [[nodiscard]] SharedLine& line(std::uint32_t slot) const {
        return reinterpret_cast<SharedTable*>(shared_.data())->lines[slot];
    }
    void show(std::uint32_t token, std::uint32_t slot, const EntryContent& content);
    void hide(std::uint32_t slot);
    [[nodiscard]] std::shared_ptr<const FarUser> user_of(std::uint64_t hazard);
    [[nodiscard]] bool take_slot(TokenSource& source);

    const TokenPermutation permutation_;
    std::array<std::atomic<Entry*>, kSlots / kChunk> chunks_{};
    base::Mutex mutex_;
    std::uint32_t used_ NDV_GUARDED_BY(mutex_) = 0;
    std::deque<std::uint32_t> free_ NDV_GUARDED_BY(mutex_);
    std::vector<std::uint16_t> generations_ NDV_GUARDED_BY(mutex_);
    PostedMappings posted_;
    std::shared_ptr<core::Faults> faults_;

    // Constant once shared.
    base::Descriptor shared_file_;
    base::FileMapping shared_;
    std::shared_ptr<Arena> arena_;
    base::Mutex users_mutex_;
    // Each stays in its place, which another one gets when it has gone: see user_of().
    std::vector<std::weak_ptr<const FarUser>> users_ NDV_GUARDED_BY(users_mutex_);
    // seq_cst: of a new user, which then looks at a line, and a thread that has hidden it and looks
    // here, one sees the other.
    std::atomic<std::size_t> user_count_{0};
    std::atomic<bool> is_closing_{false};  // relaxed: a wait that sees it late is a little longer
};

// Memory that has ended, and that a peer in another process has in hand: gives the reference back
// when that has let go. Where memory is short, or the adapter closes before, it is kept for good.
void leave_to_peers(const std::shared_ptr<MemoryTable>& table, std::uint64_t hazard,
                    core::BufferHold& hold, Progress& progress) noexcept;

// The table as the engine of one connection may see it: through its protection domain, with the
// windows of its queue pair. A domain itself has no queue pair, 0.
class DomainMemory final : public iwarp::RemoteMemory {
public:
    DomainMemory(MemoryTable& table, std::uint64_t domain, std::uint64_t queue_pair)
        : table_(table), domain_(domain), queue_pair_(queue_pair) {}
    // Whoever made it steps no more; what still leaves is kept for good.
    ~DomainMemory() = default;

    [[nodiscard]] iwarp::AccessResult pin(std::uint32_t stag, std::uint64_t to,
                                          std::uint32_t length, iwarp::RemoteRight right,
                                          iwarp::Pin& out) override;
    void unpin(const iwarp::Pin& pin) override;
    [[nodiscard]] std::size_t scatter(const iwarp::Pin& pin, std::uint64_t offset,
                                      std::size_t length, iovec* out, std::size_t max) override;
    [[nodiscard]] iwarp::AccessResult invalidate(std::uint32_t stag) override;
    [[nodiscard]] Status execute(const iwarp::SendRequest& request) override;
    [[nodiscard]] Status invalidate_sink(std::uint32_t stag) override;
    // Peers in other processes have let go of all that ended in steps; what it named goes with it.
    // Until then no completion may say that it has ended.
    [[nodiscard]] bool has_settled();

    // The same for segments of this process's own requests, which need no remote right.
    [[nodiscard]] Status acquire_local(const core::Segment& segment, std::uint32_t rights,
                                       core::LocalBuffer& out);
    // Its halves, for memory that stays pinned while it is used. The stepper's.
    [[nodiscard]] MemoryTable::Entry* pin_local(std::uint32_t token) {
        return table_.pin(token, local_memo_);
    }
    // A granted `out` has no reference of its own.
    [[nodiscard]] bool grant_local(const EntryContent& content, const core::Segment& segment,
                                   std::uint32_t rights, core::LocalBuffer& out) const;

private:
    [[nodiscard]] bool may_end(const EntryContent& content) const;
    [[nodiscard]] Status end_local(std::uint32_t stag);
    [[nodiscard]] bool end(std::uint32_t stag);

    // Ended, and in the hand of a peer in another process.
    struct Leaving {
        std::uint64_t hazard;
        Mapping* mapping;  // a reference
    };

    MemoryTable& table_;
    const std::uint64_t domain_;
    const std::uint64_t queue_pair_;
    MemoryTable::Memo memo_;  // of steps
    MemoryTable::Memo local_memo_;
    std::vector<Leaving> leaving_;
};

// The same, which refuses what faults want refused.
class FaultyMemory final : public iwarp::RemoteMemory {
public:
    FaultyMemory(DomainMemory& memory, std::shared_ptr<core::Faults> faults)
        : memory_(memory), faults_(std::move(faults)) {}
    ~FaultyMemory() = default;

    [[nodiscard]] iwarp::AccessResult pin(std::uint32_t stag, std::uint64_t to,
                                          std::uint32_t length, iwarp::RemoteRight right,
                                          iwarp::Pin& out) override {
        if (faults_->takes_refusal(right_bit(right))) return iwarp::AccessResult::denied;
        return memory_.pin(stag, to, length, right, out);
    }
    void unpin(const iwarp::Pin& pin) override { memory_.unpin(pin); }
    [[nodiscard]] std::size_t scatter(const iwarp::Pin& pin, std::uint64_t offset,
                                      std::size_t length, iovec* out, std::size_t max) override {
        return memory_.scatter(pin, offset, length, out, max);
    }
    [[nodiscard]] iwarp::AccessResult invalidate(std::uint32_t stag) override {
        return memory_.invalidate(stag);
    }
    [[nodiscard]] Status execute(const iwarp::SendRequest& request) override {
        return memory_.execute(request);
    }
    [[nodiscard]] Status invalidate_sink(std::uint32_t stag) override {
        return memory_.invalidate_sink(stag);
    }

private:
    DomainMemory& memory_;
    const std::shared_ptr<core::Faults> faults_;
};

}  // namespace ndv::soft

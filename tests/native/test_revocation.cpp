// SPDX-License-Identifier: Apache-2.0
// Memory is taken from an initiator that writes there without a pause: once remove() has returned,
// no byte of it changes. The table, the reach and the stream are the product's, in two threads that
// see each other's memory as two processes do. A control without the fence must fail: it does by
// hand what a processor may do then, and looks at the line before its hazard shows.
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "base/descriptor.hpp"
#include "checks.hpp"
#include "core/memory.hpp"
#include "direct/line.hpp"
#include "direct/stream.hpp"
#include "providers/soft/far_reach.hpp"
#include "providers/soft/memory_table.hpp"
#include "providers/soft/peer_process.hpp"

namespace {

using namespace ndv;
using testing::Checks;

constexpr std::uint64_t kDomain = 1;
constexpr std::size_t kWords = 8;
constexpr std::uint64_t kOurs = ~0ULL;
// Of each way, as many rounds as fit, and some where others have the processors.
constexpr auto kTime = std::chrono::seconds(2);
constexpr std::uint64_t kLeast = 20;

base::Descriptor copy_of(int fd) { return base::Descriptor(::dup(fd)); }

// The side that ends memory, as far as it is in a process of its own.
class Owner final : public soft::FarUser {
public:
    explicit Owner(std::shared_ptr<direct::Segment> segment) : segment_(std::move(segment)) {
        table_.share();
    }
    [[nodiscard]] soft::MemoryTable& table() { return table_; }
    [[nodiscard]] bool touches(std::uint64_t hazard) const override {
        return segment_->sides[0].hazard.load(std::memory_order_seq_cst) == hazard;
    }
    // As another process would find it, which is this one.
    [[nodiscard]] std::shared_ptr<soft::PeerProcess> met(bool may_call) {
        soft::Introduction own;
        own.id = id_;
        own.id_at = reinterpret_cast<std::uint64_t>(&id_);
        return soft::PeerProcess::meet(own, ::getpid(), copy_of(table_.descriptor()),
                                       copy_of(table_.arena()->descriptor()),
                                       base::Descriptor(::eventfd(0, EFD_CLOEXEC)), may_call);
    }

private:
    const soft::AdapterId id_{17, 4};
    const std::shared_ptr<direct::Segment> segment_;
    soft::MemoryTable table_;
};

// What it has to write to, round by round.
struct Orders {
    std::atomic<std::uint32_t> token{0};  // 0: nothing
    std::atomic<std::uint64_t> address{0};
    std::atomic<std::uint64_t> refused{0};  // rounds that ended so
    std::atomic<bool> are_over{false};
};

struct NoBells final : direct::Bells {
    void ring_peer() override {}
    void ring_self() override {}
    [[nodiscard]] bool lives_peer() const override { return true; }
};

// Stores that miss the caches keep those behind them waiting, as real payload does.
class Cold {
public:
    Cold() : memory_(std::size_t{64} << 20U) {}
    void store() {
        number_ = number_ * 6364136223846793005ULL + 1442695040888963407ULL;
        volatile char& there = memory_[(number_ >> 38U) & ~std::size_t{63}];
        there = 1;
    }

private:
    std::vector<char> memory_;
    std::uint64_t number_ = 1;
};

// Writes the product's way until a request is refused.
class Initiator {
public:
    Initiator(std::shared_ptr<direct::Segment> segment, soft::MemoryTable& own,
              std::shared_ptr<soft::PeerProcess> peer)
        : segment_(std::move(segment)),
          memory_(own, kDomain, 2),
          reach_(std::move(peer), kDomain, 3,
                 std::shared_ptr<soft::MemoryTable>(&own, [](auto*) {})) {}

    void write_until_refused(std::uint32_t token, std::uint64_t address) {
        direct::Side& side = segment_->sides[0];
        side.closing.store(0);
        side.verdict.store(0);
        direct::Line line(segment_, false);
        iwarp::SendQueue sends(16, 1, 0);
        iwarp::ReceiveQueue receives(1, 1, 0);
        direct::Stream stream(line, bells_, sends, receives, memory_, reach_, nullptr, {});
        while (!stream.is_over()) {
            cold_.store();
            source_.fill(++written_);
            const std::uint32_t position = sends.cursor.tail_position();
            iwarp::SendRequest& request = sends[position];
            request = {};
            request.kind = iwarp::RequestKind::write;
            request.remote_token = token;
            request.remote_address = address;
            request.length = sizeof source_;
            request.segment_count = 1;
            sends.segment_storage(position)[0] = {reinterpret_cast<std::byte*>(source_.data()),
                                                  sizeof source_};
            sends.cursor.publish();
            stream.begin_step({});
            static_cast<void>(stream.transmit(1U << 20U));
            stream.end_step();
            iwarp::StreamCompletion done;
            while (stream.poll_completion(done)) stream.retire(done);
        }
    }

private:
    const std::shared_ptr<direct::Segment> segment_;
    soft::DomainMemory memory_;
    soft::FarReach reach_;
    NoBells bells_;
    Cold cold_;
    std::array<std::uint64_t, kWords> source_{};
    std::uint64_t written_ = 0;
};

// The same by hand, in the arena: `kIsFenced` is all that the control leaves out.
template <bool kIsFenced>
class Copy {
public:
    Copy(std::shared_ptr<direct::Segment> segment, soft::MemoryTable&,
         std::shared_ptr<soft::PeerProcess> peer)
        : segment_(std::move(segment)), peer_(std::move(peer)) {}

    void write_until_refused(std::uint32_t token, std::uint64_t) {
        std::uint64_t hazard = 0;
        const soft::SharedLine& line = peer_->line(token, hazard);
        const std::uint64_t live = soft::SharedLine::kLive | token;
        const std::uint64_t offset = line.where & ~soft::place::kInArena;
        if (!peer_->open_arena(offset, kWords * sizeof(std::uint64_t))) return;
        auto* const target = reinterpret_cast<std::atomic<std::uint64_t>*>(
            peer_->in_arena(offset, kWords * sizeof(std::uint64_t)));
        std::atomic<std::uint64_t>& mine = segment_->sides[0].hazard;
        bool is_live = true;
        while (is_live) {
            cold_.store();
            if constexpr (kIsFenced) {
                mine.store(hazard, std::memory_order_relaxed);
                direct::full_fence();
            }
            is_live = line.live.load(std::memory_order_acquire) == live;
            if constexpr (!kIsFenced) {
                std::this_thread::yield();
                mine.store(hazard, std::memory_order_relaxed);
            }
            if (is_live) {
                ++written_;
                for (std::size_t i = 0; i < kWords; ++i) {
                    target[i].store(written_, std::memory_order_relaxed);
                }
            }
            mine.store(0, std::memory_order_release);
        }
    }

private:
    const std::shared_ptr<direct::Segment> segment_;
    const std::shared_ptr<soft::PeerProcess> peer_;
    Cold cold_;
    std::uint64_t written_ = 0;
};

// Returns in how many rounds a byte changed behind the end of its memory; `is_enough` of them end
// it.
template <typename Writer>
std::uint64_t revoke(Checks& checks, std::uint32_t rounds, bool is_in_arena,
                     std::uint64_t is_enough) {
    const std::shared_ptr<direct::Segment> segment(new direct::Segment{});
    const auto owner = std::make_shared<Owner>(segment);
    soft::MemoryTable& table = owner->table();
    checks.check(table.is_shared(), "the system has files in memory");
    table.add_user(owner);
    auto memory = table.arena()->allocate(kWords * sizeof(std::uint64_t), soft::Arena::Pages::now);
    checks.check(memory.has_value(), "the arena has room");
    auto* const words = reinterpret_cast<std::atomic<std::uint64_t>*>(memory->get());
    // Not of an arena, as far as the table sees.
    std::array<std::atomic<std::uint64_t>, kWords> private_words{};
    std::atomic<std::uint64_t>* const target = is_in_arena ? words : private_words.data();

    Orders orders;
    std::thread initiator([&] {
        Writer writer(segment, table, owner->met(!is_in_arena));
        std::uint64_t round = 0;
        while (!orders.are_over.load()) {
            const std::uint32_t token = orders.token.load();
            if (token == 0) {
                std::this_thread::yield();
                continue;
            }
            writer.write_until_refused(token, orders.address.load());
            orders.token.store(0);
            orders.refused.store(++round);
        }
    });

    std::uint64_t failed = 0;
    std::uint64_t number = 1;
    const auto until = std::chrono::steady_clock::now() + kTime;
    const auto has_time = [&](std::uint64_t round) {
        return round <= kLeast || std::chrono::steady_clock::now() < until;
    };
    for (std::uint64_t round = 1; round <= rounds && failed < is_enough && has_time(round);
         ++round) {
        soft::EntryContent content;
        content.data = reinterpret_cast<std::byte*>(target);
        content.address = reinterpret_cast<std::uint64_t>(target);
        content.size = kWords * sizeof(std::uint64_t);
        content.rights = core::access::kRemoteWriteBit;
        content.domain = kDomain;
        const std::uint32_t token = table.add(content);
        orders.address.store(content.address);
        orders.token.store(token);
        const auto has_begun = [&] { return target[0].load() != kOurs; };
        if (round > 1) checks.wait_until(has_begun, "the initiator writes");
        number = number * 6364136223846793005ULL + 1442695040888963407ULL;
        for (std::uint64_t i = number >> 53U; i > 0; --i) {
            std::atomic_signal_fence(std::memory_order_seq_cst);
        }

        table.remove(token);
        const bool has_ended =
            table.await_users(table.hazard_for(token), std::chrono::nanoseconds::max());
        checks.check(has_ended, "the wait has no limit");

        bool is_whole = true;
        for (std::size_t i = 0; i < kWords; ++i) target[i].store(kOurs);
        for (int look = 0; look < 20; ++look) {
            for (std::size_t i = 0; i < kWords; ++i) is_whole &= target[i].load() == kOurs;
        }
        checks.wait_until([&] { return orders.refused.load() == round; }, "the initiator hears");
        for (std::size_t i = 0; i < kWords; ++i) is_whole &= target[i].load() == kOurs;
        if (!is_whole) ++failed;
    }
    orders.are_over.store(true);
    initiator.join();
    return failed;
}

}  // namespace

int main(int argc, char** argv) {
    Checks checks("test_revocation");
    const std::uint32_t rounds = testing::size_argument(argc, argv, 20'000);
    checks.check(revoke<Initiator>(checks, rounds, true, rounds) == 0,
                 "no byte of an arena changes behind the end of its memory");
    checks.check(revoke<Initiator>(checks, rounds, false, rounds) == 0,
                 "no byte changes that the kernel copies");
    checks.check(revoke<Copy<true>>(checks, rounds, true, rounds) == 0,
                 "none changes where the control has the fence");
    checks.check(revoke<Copy<false>>(checks, rounds, true, 1) > 0, "without it the control fails");
    return checks.finish();
}

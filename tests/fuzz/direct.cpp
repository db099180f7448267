// SPDX-License-Identifier: Apache-2.0
// libFuzzer target: one end of a direct connection, whose peer writes anything into the segment
// that they share: between steps, and while the end calls out in the middle of one. Whatever comes:
// a request ends once and in order, a step is bounded, and no byte changes but those of receives,
// of Reads' sinks, of the peer's window and of the receives that the peer offers. Nothing of the
// peer's changes once it says that it closes, nothing at all once the stream is over.
//
// What the segment says of the peer's memory is trusted, because its own process maps it: where its
// receives lie, and the hazard, for which a side waits. Those stay true here.
//
// Input: one byte of settings (0x01: the second end, 0x02: receives come from a supply, 0x04: some
// are posted at the start), then commands. Each is a byte, whose low five bits say which one and
// whose high three are an argument, and the numbers that it takes (see Session::command()).
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <span>
#include <vector>

#include "direct/message.hpp"
#include "direct/stream.hpp"
#include "direct_doubles.hpp"

namespace {

using namespace ndv;
using direct::Kind;
using iwarp::RequestKind;
using testing::EngineLimits;
using testing::FakeMemory;
using testing::Input;
using testing::Range;
using testing::require;

constexpr std::uint32_t kMost = 20'000;  // of a request; above what goes through the ring at once
// Of this end's memory. Sends and Writes take from the source, which never changes.
constexpr std::size_t kArena = 96 * 1024;
constexpr Range kReceiveRange{0, 512};
constexpr Range kSinkRange{4096, 20'480};
constexpr Range kLargeReceiveRange{28'672, 20'480};
constexpr Range kNearWindowRange{53'248, 4096};
constexpr Range kSourceRange{57'344, 20'480};
// Of the peer's.
constexpr std::size_t kPeerArena = 64 * 1024;
constexpr Range kWindowRange{4096, 24'576};
constexpr Range kOfferedRange{32'768, 24'576};
constexpr std::byte kFill{0xEE};
constexpr std::byte kPeerFill{0x11};

constexpr std::uint32_t kWindow = 0x1100;
constexpr std::uint64_t kWindowTo = 0x1000;
// Of this end, for a peer that invalidates; the last one is its own, to be registered and ended.
constexpr std::array<std::uint32_t, 4> kTokens{0x2200, 0x3300, 0x4400, 0x5500};

constexpr std::array<std::uint32_t, 8> kLengths{0, 1, 40, 41, 700, 8192, 8193, kMost};
constexpr std::array<std::size_t, 8> kBudgets{1, 64, 1000, 5000, 20'000, 1U << 20U, 0, 16'384};

EngineLimits limits_of(std::size_t arena) {
    return {.send_depth = 8,
            .receive_depth = 8,
            .max_segments = 16,
            .arena_size = arena,
            .start_position = 0xFFFFFFFD};
}

// Of a side; what is behind it, by far the most, is bytes and nothing else.
constexpr std::size_t kStructured = offsetof(direct::Side, bulk);

// One at a time: too large to be made anew for every input.
direct::Segment& clean_segment() {
    static direct::Segment segment;
    for (direct::Side& side : segment.sides) std::memset(static_cast<void*>(&side), 0, kStructured);
    return segment;
}

class Session final : public direct::Bells, private iwarp::ReceiveSupply, private testing::Moment {
public:
    explicit Session(std::uint8_t settings)
        : segment_(clean_segment()),
          line_({&segment_, [](direct::Segment*) {}}, (settings & 1U) != 0),
          mine_(line_.mine()),
          theirs_(line_.theirs()),
          near_(limits_of(kArena)),
          far_(limits_of(kPeerArena)),
          own_(near_.memory(), *this),
          reach_(way_of(settings), far_.memory(),
                 far_.arena().subspan(kOfferedRange.offset, kOfferedRange.length), *this),
          is_supplied_((settings & 2U) != 0),
          stream_(line_, *this, near_.send_queue(), near_.receive_queue(), own_, reach_,
                  is_supplied_ ? this : nullptr, kReceiveWait) {
        std::fill(near_.arena().begin(), near_.arena().end(), kFill);
        std::fill(far_.arena().begin(), far_.arena().end(), kPeerFill);
        add_window();
        FakeMemory& memory = near_.memory();
        memory.add({kWindow, kWindowTo, at(kNearWindowRange), kNearWindowRange.length, true, true,
                    false, 1, 0, true});
        memory.add({kTokens[0], 0, at({80'000, 0}), 64, true, false, false, 1});  // no right to end
        memory.add({kTokens[1], 0, at({80'100, 0}), 64, true, true, true, 2});    // another domain
        memory.add({kTokens[2], 0, at({80'200, 0}), 64, false, true, true, 1});
        memory.prepare({kTokens[3], 0, at({80'300, 0}), 64, false, true, true, 1});
        if ((settings & 4U) != 0) {
            for (unsigned i = 0; i < 6; ++i) post_receive(i);
        }
    }

    void command(Input& input) {
        const auto byte = input.take<std::uint8_t>();
        const unsigned choice = byte >> 5U;
        switch (byte & 31U) {
            // ---- the peer's hand in the segment
            case 0:  // a message in a slot, its bytes from the input
                return send_small(choice, input.some(input.take<std::uint8_t>() % 41));
            case 1:  // one of that length in its data, in order
                return send_large(choice, input.take<std::uint16_t>());
            case 2:  // anything in the next slot
                return send_any(input, choice);
            case 3:  // any bytes anywhere
                scribble(input.take<std::uint32_t>(), input.some(input.take<std::uint8_t>() % 64));
                return;
            case 4:  // any bytes anywhere, in the next moment in which the stream calls out
                armed_at_ = input.take<std::uint32_t>();
                armed_ = input.some(input.take<std::uint8_t>() % 64);
                return;
            case 5:  // takes what there is, or a part
                return consume(choice == 0 ? direct::kSlots : choice);
            case 6:
                theirs_.consumed_slots = choice < 4 ? choice : input.take<std::uint64_t>();
                theirs_.consumed_data = input.take<std::uint64_t>();
                theirs_.consumed_bulk = input.take<std::uint64_t>();
                return;
            case 7:
                return offer(choice, input.take<std::uint16_t>(), input.take<std::uint32_t>());
            case 8:
                theirs_.verdict = input.take<std::uint32_t>();
                return;
            case 9:
                theirs_.closing = choice & 1U;
                return;
            case 10:
                theirs_.hazard = choice >> 1U;
                is_alive_ = (choice & 1U) == 0;
                mine_.asleep = input.take<std::uint8_t>();  // it wakes this end
                theirs_.asleep = input.take<std::uint8_t>();
                return;
            case 11:
                reach_.allow_calls(choice);
                return choice == 0 ? static_cast<void>(far_.memory().remove(kWindow))
                                   : add_window();
            case 28:
                return ask(choice, input.take<std::uint16_t>(), input.take<std::uint32_t>());
            case 29:
                return answer(choice, input.take<std::uint16_t>());
            // ---- what this end's program and link do
            case 12:
                return post(RequestKind::send, choice, input.take<std::uint8_t>());
            case 13:
                return post(RequestKind::write, choice, input.take<std::uint8_t>());
            case 14:
                return post(RequestKind::write_immediate, choice, input.take<std::uint8_t>());
            case 15:
                return post(RequestKind::read, choice, input.take<std::uint8_t>());
            case 16:
                return post(RequestKind::fetch_add, choice, input.take<std::uint8_t>());
            case 17:
                return post(RequestKind::compare_swap, choice, input.take<std::uint8_t>());
            case 18:
                return post_local(choice);
            case 19:
            case 20:
                return post_receive(choice);
            case 21:
                now_ += std::chrono::seconds(1 + choice);
                return;
            case 22:
                stream_.handle_end_of_stream();
                return;
            case 23:
                stream_.handle_link_error(104);  // ECONNRESET
                return step(choice);
            case 24:
                stream_.handle_disconnect();
                return step(choice);
            case 25:
                stream_.handle_flush();
                return step(choice);
            case 26:
                stream_.give_way();
                return step(choice);
            case 27:
                static_cast<void>(line_.doze());
                static_cast<void>(line_.has_news());
                return;
            default:
                return step(choice);
        }
    }

    // What must hold at the end of any input.
    void finish() {
        theirs_.hazard = 0;
        step(5);
        // Time alone ends a pause.
        if (const auto deadline = stream_.poll_deadline()) {
            require(*deadline <= now_ + kReceiveWait, "a deadline is near");
            now_ = *deadline;
            step(5);
        }
        stream_.handle_flush();
        step(5);
        require(stream_.is_over(), "a flush ends the stream");
        require(near_.send_queue().cursor.size() == 0, "every request has completed");
        require(near_.receive_queue().cursor.size() == 0, "every receive has completed");
        send_small(0, {});
        stream_.handle_end_of_stream();
        step(5);
        check(near_.arena(), kFill,
              {kReceiveRange, kSinkRange, kLargeReceiveRange, kNearWindowRange});
        check(far_.arena(), kPeerFill, {kWindowRange, kOfferedRange});
    }

    void ring_peer() override { pass(); }
    void ring_self() override { pass(); }
    [[nodiscard]] bool lives_peer() const override { return is_alive_; }

private:
    static constexpr iwarp::Time kReceiveWait = std::chrono::seconds(5);

    static direct::Way way_of(std::uint8_t settings) {
        constexpr std::array kWays{direct::Way::loads, direct::Way::calls, direct::Way::carried,
                                   direct::Way::loads};
        return kWays[(settings >> 3U) & 3U];
    }
    std::byte* at(const Range& range) { return near_.arena().data() + range.offset; }
    void add_window() {
        far_.memory().remove(kWindow);
        far_.memory().add({kWindow, kWindowTo, far_.arena().data() + kWindowRange.offset,
                           kWindowRange.length, true, true, false, 1, 0, true});
    }

    // Nothing but these ranges differs from the fill.
    static void check(std::span<std::byte> arena, std::byte fill,
                      std::initializer_list<Range> ranges) {
        for (const Range& range : ranges) {
            std::fill_n(arena.data() + range.offset, range.length, fill);
        }
        require(arena[0] == fill && std::memcmp(arena.data(), &arena[1], arena.size() - 1) == 0,
                "nothing else in memory has changed");
    }

    // ---- the peer -------------------------------------------------------------------------------

    void pass() override {
        if (armed_.empty()) return;
        scribble(armed_at_, armed_);
        armed_ = {};
        has_meddled_ = true;
    }
    void scribble(std::size_t offset, std::span<const std::byte> bytes) {
        if (bytes.empty()) return;
        auto* const begin = reinterpret_cast<std::byte*>(&segment_.sides[offset & 1U]);
        const std::size_t to = (offset >> 1U) % (kStructured - bytes.size());
        std::memcpy(begin + to, bytes.data(), bytes.size());
        mine_.hazard = theirs_.hazard = 0;
    }

    void publish(Kind kind, unsigned marks, std::uint32_t length, std::uint32_t value,
                 std::uint64_t position) {
        direct::Slot& slot = theirs_.slots[published_ % direct::kSlots];
        slot.length = length;
        slot.value = value;
        slot.at = position;
        slot.word = (++published_ << 16U) | (marks & 0xFFU) << 8U | static_cast<std::uint8_t>(kind);
    }
    void send_small(unsigned choice, std::span<const std::byte> bytes) {
        direct::Slot& slot = theirs_.slots[published_ % direct::kSlots];
        std::copy(bytes.begin(), bytes.end(), slot.bytes.begin());
        const Kind kind = (choice & 4U) != 0 ? Kind::fragment : Kind::message;
        publish(kind, choice & 3U, static_cast<std::uint32_t>(bytes.size()), kTokens[2], 0);
    }
    // Bytes that lie beside the slot, in one piece behind those before them.
    void publish_beside(Kind kind, unsigned marks, std::uint32_t length, std::uint32_t value) {
        const bool is_bulk = length > direct::kSmallMessage;
        std::uint64_t& from = is_bulk ? bulk_at_ : data_at_;
        const std::uint32_t size = is_bulk ? direct::kBulkBytes : direct::kDataBytes;
        if (from % size + length > size) from += size - from % size;
        publish(kind, marks | (is_bulk ? direct::mark::kInBulk : direct::mark::kInData), length,
                value, from);
        from += length;
    }
    void send_large(unsigned choice, std::uint32_t length) {
        const Kind kind = (choice & 4U) != 0 ? Kind::fragment : Kind::message;
        publish_beside(kind, choice & 3U, length, kTokens[2]);
    }
    // A Write, Read or atomic that this end is to execute, mostly within its window.
    void ask(unsigned choice, std::uint16_t where, std::uint32_t length) {
        const direct::Target target{kWindowTo + (choice < 4 ? where % 4096U : where), length,
                                    where};
        direct::Slot& slot = theirs_.slots[published_ % direct::kSlots];
        std::memcpy(slot.bytes.data(), &target, sizeof target);
        constexpr std::array kKinds{Kind::write, Kind::read, Kind::fetch_add, Kind::compare_swap};
        const Kind kind = kKinds[choice % 4];
        if (kind == Kind::write)
            return publish_beside(kind, 0, std::min(length, where % 20'000U), kWindow);
        publish(kind, 0, 0, kWindow, 0);
    }
    // What it owes, or any bytes.
    void answer(unsigned choice, std::uint16_t length) {
        const std::uint32_t size = choice < 4 ? std::min<std::uint32_t>(owed_, length) : length;
        owed_ -= std::min(owed_, size);
        if (choice % 4 == 0 && size <= direct::Slot::kBytes) {
            return publish(Kind::answer, 0, size, 0, 0);
        }
        publish_beside(Kind::answer, 0, size, 0);
    }
    void send_any(Input& input, unsigned choice) {
        const auto kind = input.take<std::uint8_t>();
        const auto marks = input.take<std::uint8_t>();
        const auto length = input.take<std::uint32_t>();
        const auto value = input.take<std::uint8_t>();
        // Where this end is, or as far from it as any number.
        if (choice != 0) published_ = line_.taken() + (choice - 1);
        const auto away = static_cast<std::uint64_t>(std::int64_t{input.take<std::int16_t>()});
        publish(static_cast<Kind>(kind), marks, length,
                value < kTokens.size() ? kTokens[value] : value, data_at_ + away);
    }
    void consume(unsigned most) {
        std::uint64_t slots = theirs_.consumed_slots;
        for (; most > 0; --most, ++slots) {
            const direct::Slot& slot = mine_.slots[slots % direct::kSlots];
            const std::uint64_t word = slot.word;
            if (word >> 16U != slots + 1) break;
            const std::uint64_t end = slot.at + slot.length;
            if ((word >> 8U & direct::mark::kInData) != 0) theirs_.consumed_data = end;
            if ((word >> 8U & direct::mark::kInBulk) != 0) theirs_.consumed_bulk = end;
            const auto kind = static_cast<Kind>(word & 0xFFU);
            direct::Target target;
            std::memcpy(&target, slot.bytes.data(), sizeof target);
            if (kind == Kind::read) owed_ = static_cast<std::uint32_t>(target.operand);
            if (kind == Kind::fetch_add || kind == Kind::compare_swap) owed_ = 8;
            if (kind == Kind::message || kind == Kind::placed || kind == Kind::immediate) {
                ++messages_;
            }
        }
        theirs_.consumed_slots = slots;
    }
    void offer(unsigned choice, std::uint16_t where, std::uint32_t length) {
        const std::uint64_t number = messages_ + choice;
        direct::Posted& receive = theirs_.posted[number % direct::kPosted];
        receive.where = where;
        receive.length = length;
        receive.stamp = number + 1;
    }
    [[nodiscard]] bool offers_nothing() const {
        return std::all_of(theirs_.posted.begin(), theirs_.posted.end(),
                           [](const direct::Posted& receive) { return receive.stamp == 0; });
    }

    // ---- this end -------------------------------------------------------------------------------

    bool refill() override {
        if (!can_refill()) return false;
        --supply_;
        post_one_receive(supply_);
        return true;
    }
    [[nodiscard]] bool can_refill() const override { return supply_ > 0 && !is_full_; }
    void post_receive(unsigned choice) {
        if (is_supplied_) {
            if (supply_ < 100) ++supply_;
        } else {
            post_one_receive(choice);
        }
    }
    void post_one_receive(unsigned choice) {
        std::vector<Range> ranges{kLargeReceiveRange};
        if (choice % 4 == 1) ranges = {{0, 100}, {100, 0}, {200, 156}};
        if (choice % 4 == 2) ranges = {{400, 41}};
        if (choice % 4 == 3) ranges.clear();
        if (near_.post_receive(receives_posted_, ranges)) ++receives_posted_;
        is_full_ = near_.receive_queue().cursor.is_full();
    }

    void post(RequestKind kind, unsigned choice, std::uint8_t flags) {
        iwarp::SendRequest request;
        request.kind = kind;
        const bool is_send = kind == RequestKind::send;
        const bool fills = kind == RequestKind::read || iwarp::is_atomic(kind);
        request.invalidates = (flags & 1U) != 0 && (is_send || kind == RequestKind::read);
        request.solicits = (flags & 2U) != 0;
        request.remote_token = (flags & 4U) != 0 && !is_send ? 0x99 : kWindow;
        request.remote_address = kWindowTo + ((flags & 8U) != 0 ? kWindowRange.length - kMost : 0) +
                                 ((flags & 32U) != 0 ? 1 : 0);
        request.local_token = kTokens[choice % kTokens.size()];
        request.operand = 0x0102030405060708;
        if (kind == RequestKind::compare_swap) request.compare = 0x1111111111111111;
        const std::uint32_t length = iwarp::is_atomic(kind) ? 8 : kLengths[choice];
        const std::size_t begin = fills ? kSinkRange.offset : kSourceRange.offset;
        const std::uint32_t first = (flags & 16U) != 0 ? length / 3 : 0;
        // Not aligned: the place of an atomic's old value need not be.
        post(request,
             std::array{Range{begin + 1, first}, Range{begin + 1 + first, length - first}});
    }
    void post_local(unsigned choice) {
        iwarp::SendRequest request;
        request.kind = choice < 2   ? RequestKind::bind
                       : choice < 4 ? RequestKind::fast_register
                                    : RequestKind::invalidate;
        request.local_token = kTokens[2 + choice % 2];
        post(request, {});
    }
    void post(iwarp::SendRequest& request, std::span<const Range> ranges) {
        request.context = requests_posted_;
        if (near_.post(request, ranges)) ++requests_posted_;
    }

    void step(unsigned choice) {
        const std::size_t budget = kBudgets[choice];
        const bool was_over = stream_.is_over();
        const bool had_ended = was_over || stream_.is_ending();
        const bool is_quiet = armed_.empty();
        const auto near = copy_if(was_over, near_);
        const auto far = copy_if(was_over || (is_quiet && theirs_.closing != 0), far_);
        const bool is_offered = !is_quiet || !offers_nothing();
        const auto offered = copy_if(!is_offered, far_);
        has_meddled_ = false;

        stream_.begin_step(now_);
        transmit(budget);
        const std::uint64_t taken = line_.taken();
        static_cast<void>(stream_.receive(budget));
        // Two more for what was written meanwhile.
        require(line_.taken() - taken <= direct::kSlots + (has_meddled_ ? 2 : 0),
                "a step takes no more than there is room for");
        transmit(budget);
        stream_.end_step();
        collect();

        require(mine_.hazard == 0, "no hazard outlives a step");
        require(near_.memory().pins() == 0 && far_.memory().pins() == 0, "nor does a pin");
        require(!was_over || stream_.is_over(), "what is over stays over");
        // A copy does not last for ever.
        if (theirs_.hazard != 0 && ++held_for_ > 2) theirs_.hazard = held_for_ = 0;
        if (!near.empty()) require(is_same(near, near_), "nothing comes behind the end");
        if (!far.empty()) require(is_same(far, far_), "a peer that closes is left alone");
        if (!offered.empty()) {
            require(
                std::memcmp(offered.data() + kOfferedRange.offset,
                            far_.arena().data() + kOfferedRange.offset, kOfferedRange.length) == 0,
                "what is not offered is left alone");
        }
        if ((stream_.is_over() || stream_.is_ending()) && !had_ended && !has_meddled_) {
            require(mine_.closing == 1, "the peer hears of the end");
            for (const direct::Posted& receive : mine_.posted) {
                require(receive.stamp == 0, "receives are taken back at the end");
            }
        }
    }
    void transmit(std::size_t budget) {
        const std::uint64_t bytes = stream_.counters().bytes_out;
        static_cast<void>(stream_.backlog());
        static_cast<void>(stream_.transmit(budget));
        // One piece more than the budget, of an answer and of a request each; a placed message
        // counts when it is whole.
        require(stream_.counters().bytes_out - bytes <= budget + direct::kFragment + kMost,
                "a step moves what its budget allows");
    }
    static std::vector<std::byte> copy_if(bool is_wanted, testing::Surroundings& from) {
        const auto arena = from.arena();
        return is_wanted ? std::vector<std::byte>(arena.begin(), arena.end())
                         : std::vector<std::byte>();
    }
    static bool is_same(std::span<const std::byte> before, testing::Surroundings& now) {
        return std::memcmp(before.data(), now.arena().data(), before.size()) == 0;
    }

    void collect() {
        iwarp::StreamCompletion completion;
        while (stream_.poll_completion(completion)) {
            if (completion.is_receive) {
                const auto& request = near_.receive_queue()[completion.position];
                require(request.context == receives_done_++, "receives complete in order, once");
                // With an immediate it is the length of a Write, elsewhere.
                require(request.has_immediate || request.received <= request.length,
                        "a receive is not overfilled");
            } else {
                const auto& request = near_.send_queue()[completion.position];
                require(request.context == requests_done_++, "requests complete in order, once");
            }
            stream_.retire(completion);
        }
        is_full_ = near_.receive_queue().cursor.is_full();
        static_cast<void>(stream_.take_events());
        static_cast<void>(stream_.wants_write());
        static_cast<void>(stream_.can_resume());
        const auto since = stream_.held_since();
        require(!since || *since <= now_, "no receive is held from now on");
    }

    direct::Segment& segment_;
    direct::Line line_;
    direct::Side& mine_;
    direct::Side& theirs_;
    testing::Surroundings near_;
    testing::Surroundings far_;
    testing::WatchedMemory own_;
    testing::WatchedReach reach_;
    const bool is_supplied_;
    bool is_full_ = false;
    unsigned supply_ = 0;
    iwarp::Time now_ = std::chrono::seconds(1);
    std::uint64_t requests_posted_ = 0;
    std::uint64_t requests_done_ = 0;
    std::uint64_t receives_posted_ = 0;
    std::uint64_t receives_done_ = 0;
    // The peer's.
    std::uint64_t published_ = 0;
    std::uint64_t data_at_ = 0;
    std::uint64_t bulk_at_ = 0;
    std::uint64_t messages_ = 0;  // taken
    std::uint32_t owed_ = 0;      // bytes of an answer
    bool is_alive_ = true;
    unsigned held_for_ = 0;  // steps with its hazard
    std::size_t armed_at_ = 0;
    std::span<const std::byte> armed_;
    bool has_meddled_ = false;
    direct::Stream stream_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    Input input(std::as_bytes(std::span(data + 1, size - 1)));
    Session session(data[0]);
    while (!input.is_over()) session.command(input);
    session.finish();
    return 0;
}

// SPDX-License-Identifier: Apache-2.0
// libFuzzer target: one stream fed with anything, in any cuts, with requests posted and regions
// registered. Whatever comes: bytes outside the ranges that a peer may write stay as they were,
// no pin outlives a step, every request completes at most once and in order, and a flush ends it.
// With CRC, memory changes between the gather list and the bytes, and every frame that is sent has
// the right sum.
//
// Input: one byte of settings (0x02: CRC), then commands, each a byte and what it takes:
//   0x00-0x7f  feed the next 1 + (command & 0x3f) * 4 bytes as the peer's; from 0x40 on in reads
//              of five bytes
//   0x80-0xbf  the next (command & 3) * 256 + first byte bytes are a ULPDU: its length, pad and a
//              good CRC are put around it, and with 0x20 ten thousand bytes behind it
//   0xc0-0xff  one of the local inputs below; 0x20 tells a slow link from a fast one, 0x10 requests
//              of RFC 7306 from the rest
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../native/engine_fixture.hpp"
#include "base/bytes.hpp"
#include "base/crc32c.hpp"

namespace {

using namespace ndv;
using testing::Engine;
using testing::EngineLimits;
using testing::FakeMemory;
using testing::Range;

constexpr std::size_t kArena = 32768;
constexpr std::uint32_t kWindow = 0x1100;
constexpr std::uint64_t kWindowTo = 0x1000;
// Ranges of the arena that a peer may write: window, receives and sinks of reads. The rest is not;
// requests send from the source.
constexpr Range kSourceRange{2048, 700};
constexpr Range kWindowRange{4096, 24576};
constexpr Range kReceiveRange{0, 512};
constexpr Range kSinkRange{1024, 512};
constexpr std::byte kFill{0xEE};

// Not assert(): it also runs where NDEBUG is set.
void require(bool is_true, const char* sentence) {
    if (is_true) return;
    std::fprintf(stderr, "broken promise: %s\n", sentence);
    std::abort();
}

class Session {
public:
    explicit Session(std::uint8_t settings)
        : has_crc_(config_of(settings).crc),
          engine_(config_of(settings), EngineLimits{.send_depth = 8,
                                                    .receive_depth = 8,
                                                    .max_segments = 16,
                                                    .arena_size = kArena,
                                                    .start_position = 0xFFFFFFFD}) {
        std::fill(engine_.arena().begin(), engine_.arena().end(), kFill);
        FakeMemory& memory = engine_.memory();
        memory.add({kWindow, kWindowTo, at(kWindowRange), kWindowRange.length, true, true, false, 1,
                    0, true});
        memory.add({0x2200, 0, at({30000, 0}), 64, true, false, false, 1});  // read only
        memory.add({0x3300, 0, at({30100, 0}), 64, true, true, false, 2});   // another domain
        memory.add({0x4400, 0, at({30200, 0}), 64, false, false, true, 1});  // revocable
        post_receive();
        post_read(100);
        if ((settings & 0x40U) != 0) step(kEverything);  // half of the inputs start established
    }

    void feed(std::span<const std::byte> data, std::size_t read_size) {
        begin();
        const std::size_t taken = engine_.receive(data, read_size, 16, std::size_t{1} << 20, now_);
        require(taken <= data.size(), "no more is taken than there is");
        transmit(link_limit_);
        end();
    }

    void command(std::uint8_t command) {
        link_limit_ = (command & 0x20U) != 0 ? 300 : kEverything;
        if ((command & 0x10U) != 0) return post_extension(command & 0x03U);
        switch (command & 0x0FU) {
            case 0:
                return post_receive();
            case 1:
                return post_read(8);
            case 2:
                return post_read(512);
            case 3:
                return post(iwarp::RequestKind::send, 40);
            case 4:
                return post(iwarp::RequestKind::write, kSourceRange.length);
            case 5:
                now_ += std::chrono::seconds(1);
                return step(0);
            case 6:
                now_ += std::chrono::seconds(6);
                return step(0);
            case 7:
                return step(1);
            case 8:
                return step(17);
            case 9:
                return step(link_limit_);
            case 10:
                engine_.memory().remove(kWindow);
                return;
            case 11:
                engine_.connection().handle_end_of_stream();
                return step(link_limit_);
            case 12:
                engine_.connection().handle_link_error(104);  // ECONNRESET
                return step(link_limit_);
            case 13:
                engine_.connection().handle_disconnect();
                return step(link_limit_);
            case 14:
                engine_.connection().release_hold();
                return step(link_limit_);
            default:
                engine_.connection().handle_flush();
                return step(link_limit_);
        }
    }

    // What must hold at the end of any input.
    void finish() {
        step(kEverything);
        // Time alone ends a pause and a Terminate that does not get out.
        if (const auto deadline = engine_.connection().poll_deadline()) {
            require(*deadline <= now_ + std::chrono::seconds(5), "a deadline is near");
            now_ = *deadline;
            step(kEverything);
            now_ += std::chrono::seconds(6);
            step(kEverything);
        }
        engine_.connection().handle_flush();
        step(kEverything);
        require(engine_.connection().is_over(), "a flush ends the stream");
        require(engine_.send_queue().cursor.size() == 0, "every request has completed");
        require(engine_.receive_queue().cursor.size() == 0, "every receive has completed");
        const auto arena = engine_.arena();
        if (is_inverted_) invert_memory();
        for (const Range& range : {kWindowRange, kReceiveRange, kSinkRange}) {
            std::fill_n(at(range), range.length, kFill);
        }
        require(arena[0] == kFill && std::memcmp(arena.data(), &arena[1], arena.size() - 1) == 0,
                "nothing else in memory has changed");
    }

private:
    static constexpr std::size_t kEverything = std::size_t{1} << 24;

    static iwarp::ConnectionConfig config_of(std::uint8_t settings) {
        iwarp::ConnectionConfig config;
        config.is_initiator = (settings & 0x01U) != 0;
        config.crc = (settings & 0x02U) != 0;
        constexpr std::array kKinds{iwarp::RtrKind::none, iwarp::RtrKind::send,
                                    iwarp::RtrKind::write, iwarp::RtrKind::read};
        config.rtr = kKinds[(settings >> 2U) & 3U];
        config.ird = (settings & 0x10U) != 0 ? 2 : 1;
        config.ord = 2;
        config.max_fpdu = (settings & 0x20U) != 0 ? 64 : 65480;
        config.wakes_peer = (settings & 0x80U) != 0;
        // Known to the fuzzer, which would never guess a sink STag otherwise.
        config.seed = 1;
        return config;
    }
    std::byte* at(const Range& range) { return engine_.arena().data() + range.offset; }

    void invert_memory() {
        for (const Range& range : {kSourceRange, kWindowRange}) {
            for (std::byte& byte : engine_.arena().subspan(range.offset, range.length))
                byte = ~byte;
        }
        is_inverted_ = !is_inverted_;
    }

    void post_receive() {
        const std::array ranges{Range{0, 100}, Range{100, 0}, Range{200, 156}};
        static_cast<void>(engine_.post_receive(next_receive_posted_, ranges)
                              ? ++next_receive_posted_
                              : next_receive_posted_);
    }
    void post_read(std::uint32_t length) {
        iwarp::SendRequest request;
        request.kind = iwarp::RequestKind::read;
        post(request, Range{kSinkRange.offset, length});
    }
    void post_extension(unsigned which) {
        iwarp::SendRequest request;
        request.operand = 0x0102030405060708;
        if (which < 2) {
            request.kind = iwarp::RequestKind::write_immediate;
            return post(request, Range{kSourceRange.offset, which == 0 ? 0U : kSourceRange.length});
        }
        request.kind = iwarp::RequestKind::fetch_add;
        if (which == 3) {
            request.kind = iwarp::RequestKind::compare_swap;
            request.compare = 0xEEEEEEEEEEEEEEEE;
        }
        // Not aligned: the place of the old value need not be.
        post(request, Range{kSinkRange.offset + 1, 8});
    }
    void post(iwarp::RequestKind kind, std::uint32_t length) {
        iwarp::SendRequest request;
        request.kind = kind;
        post(request, Range{kSourceRange.offset, length});
    }
    void post(iwarp::SendRequest request, const Range& range) {
        request.remote_token = kWindow;
        request.remote_address = kWindowTo;
        request.is_fenced = (next_posted_ % 5) == 4;
        request.context = next_posted_;
        if (engine_.post(request, std::array{range})) ++next_posted_;
    }

    void begin() { engine_.connection().begin_step(now_); }
    void end() {
        iwarp::StreamCompletion completion;
        while (engine_.connection().poll_completion(completion)) {
            if (completion.is_receive) {
                const auto& request = engine_.receive_queue()[completion.position];
                require(request.context == next_receive_++, "receives complete in order, once");
                // With an immediate it is the length of a Write, elsewhere.
                require(request.has_immediate || request.received <= request.length,
                        "a receive is not overfilled");
            } else {
                const auto& request = engine_.send_queue()[completion.position];
                require(request.context == next_++, "requests complete in order, once");
            }
            engine_.connection().retire(completion);
        }
        static_cast<void>(engine_.connection().take_events());
        static_cast<void>(engine_.connection().has_large_backlog(32768));
        static_cast<void>(engine_.connection().wants_write());
        engine_.connection().end_step();
        require(engine_.memory().pins() == 0, "no pin outlives a step");
    }
    void step(std::size_t limit) {
        begin();
        transmit(limit);
        end();
    }
    void transmit(std::size_t limit) {
        if (!has_crc_) {
            static_cast<void>(engine_.transmit(limit, 16, 4096));
            return;
        }
        const auto sent = engine_.transmit(limit, 16, 4096, [this] { invert_memory(); });
        sent_.insert(sent_.end(), sent.begin(), sent.end());
        while (sent_.size() >= iwarp::kLengthSize) {
            const std::size_t size = iwarp::fpdu_size(base::load_be<std::uint16_t>(sent_.data()));
            if (sent_.size() < size) return;
            const std::size_t covered = size - iwarp::kCrcSize;
            require(
                base::crc32c(0, sent_.data(), covered) == base::load_le32(sent_.data() + covered),
                "what is sent is what was summed");
            sent_.erase(sent_.begin(), sent_.begin() + static_cast<std::ptrdiff_t>(size));
        }
    }

    const bool has_crc_;
    bool is_inverted_ = false;
    std::vector<std::byte> sent_;  // with CRC: of a frame that is not out as a whole
    Engine engine_;
    std::size_t link_limit_ = kEverything;  // bytes that it takes in one step
    iwarp::Time now_{};
    std::uint64_t next_posted_ = 0;
    std::uint64_t next_ = 0;
    std::uint64_t next_receive_posted_ = 0;
    std::uint64_t next_receive_ = 0;
};

constexpr std::size_t kAtOnce = std::size_t{1} << 20;

// An FPDU that passes the checks of MPA, whatever is in it.
std::vector<std::byte> framed(std::span<const std::byte> ulpdu, std::size_t more) {
    const std::size_t length = ulpdu.size() + more;
    std::vector<std::byte> out(iwarp::fpdu_size(length), std::byte{0x5A});
    base::store_be(out.data(), static_cast<std::uint16_t>(length));
    std::copy(ulpdu.begin(), ulpdu.end(), out.begin() + iwarp::kLengthSize);
    const std::size_t covered = out.size() - iwarp::kCrcSize;
    base::store_le32(out.data() + covered, base::crc32c(0, out.data(), covered));
    return out;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const auto bytes = std::as_bytes(std::span(data, size));
    Session session(data[0]);
    std::size_t i = 1;
    while (i < size) {
        const std::uint8_t command = data[i++];
        if (command >= 0xC0) {
            session.command(command);
            continue;
        }
        const bool is_ulpdu = command >= 0x80;
        std::size_t length = 1 + std::size_t{command & 0x3FU} * 4;
        if (is_ulpdu) {
            if (i == size) break;
            length = (std::size_t{command & 3U} << 8U) + data[i++];
        }
        const auto part = bytes.subspan(i, std::min(length, size - i));
        if (is_ulpdu) {
            session.feed(framed(part, (command & 0x20U) != 0 ? 10'000 : 0), kAtOnce);
        } else {
            session.feed(part, command >= 0x40 ? 5 : kAtOnce);
        }
        i += part.size();
    }
    session.finish();
    return 0;
}

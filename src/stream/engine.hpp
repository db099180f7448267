// SPDX-License-Identifier: Apache-2.0
// One end of one stream, sans-IO: which bytes may be written where, which message words follow,
// what the other end's words mean. It moves no payload: the caller writes chunks into the peer's
// memory and copies received bytes out of its own segments. Not thread-safe. Source: librdmacm,
// rsocket.c; its two ring halves are a pool of segments here, which looks the same to the peer.
//
// Order: add_segment(), local_data(), start(); then for every message handle_message(), and after
// every input poll_control() until it has nothing, and take_chunk() as long as there is data.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/expected.hpp"
#include "stream/wire.hpp"

namespace ndv::stream {

// How a message word travels.
enum class Mode : std::uint8_t {
    immediate,  // in the immediate data of a write; every word takes one receive without memory
    message,    // iWARP: a Send of four bytes behind the write, in the sender's byte order
};

// Received bytes: part of one segment.
struct View {
    std::uint16_t segment = 0;
    std::uint32_t offset = 0;
    std::uint32_t length = 0;
};

// Write `length` bytes there, then send the word.
struct Chunk : RemoteRange {
    MessageWord word;
};

// A message without payload of the stream. With `has_write`, `bytes` go to `target` before it.
struct Control {
    bool has_write = false;
    bool has_word = true;  // false: keepalive, a write of no bytes alone
    RemoteRange target;
    std::array<std::byte, Mapping::kSize> bytes{};
    MessageWord word;
};

class Engine {
public:
    static constexpr std::size_t kTargets = 2;  // librdmacm walks exactly two
    static constexpr std::size_t target_bytes(std::uint32_t iomap_entries) {
        return kTargets * Descriptor::kSize + iomap_entries * Mapping::kSize;
    }
    static constexpr std::size_t kMaxSegments = 64;

    struct Config {
        Mode mode = Mode::message;
        std::uint16_t credits = 64;           // receives that stay posted for the peer's messages
        std::byte* targets = nullptr;         // target_bytes(), where the peer writes
        std::uint32_t iomap_entries = 0;      // mappings of the peer's that there is room for
        std::uint32_t max_chunk = 64 * 1024;  // bytes of one message of ours
        // iWARP's rule for the end that accepts: the other one speaks first, which it always does.
        // What came with the MPA reply would end the connection (RFC 5044, section 7.1.2).
        bool waits_for_peer = false;
    };

    explicit Engine(const Config& config);

    // ---- before the connection ----
    // Memory that the peer may be told to write to; at most kMaxSegments.
    void add_segment(const RemoteRange& segment);
    // What the peer is told; it grants the first segment. Once.
    [[nodiscard]] ConnectionData local_data(std::uint64_t targets_address,
                                            std::uint32_t targets_key);
    // What the peer told. An error: no stream with this peer.
    [[nodiscard]] Expected<void> start(const ConnectionData& peer);

    // ---- inputs ----
    // An error: the peer broke the protocol; what was received before stays readable.
    [[nodiscard]] Expected<void> handle_message(MessageWord word);
    void request_keepalive() { owes_keepalive_ = true; }
    // No more data of ours: once all of it was taken by take_chunk().
    void shut_write();
    // No more in either direction.
    void disconnect();

    // ---- outputs ----
    [[nodiscard]] bool poll_control(Control& out);
    // The most that take_chunk() would take; 0: no credit, or no memory of the peer's.
    [[nodiscard]] std::uint32_t sendable();
    // Accounts for the chunk, which must follow. sendable() is not 0; `most` is not 0.
    [[nodiscard]] Chunk take_chunk(std::uint32_t most);

    // ---- mappings: memory that is written to by offset, outside the stream (riomap) ----
    // Tells the peer of one before any later data; its number. An error: the peer has no room.
    [[nodiscard]] Expected<std::uint32_t> add_mapping(const Mapping& mapping);
    // The number may be taken again. The peer is not told.
    void remove_mapping(std::uint32_t number);
    // Where the peer has that offset, and how many bytes from there on; length 0: nowhere.
    [[nodiscard]] RemoteRange find_mapping(std::uint64_t offset) const;

    // ---- received data ----
    [[nodiscard]] std::uint64_t readable() const { return readable_; }
    // The oldest bytes that lie in one piece; length 0: none.
    [[nodiscard]] View front() const;
    // `length` of front() was copied out.
    void consume(std::uint32_t length);
    // `length` of front() leave the stream and stay in memory until release().
    [[nodiscard]] View take(std::uint32_t length);
    void release(const View& view);
    // The peer could use another segment and none is free: add_segment() would help.
    [[nodiscard]] bool wants_segment() const;

    // ---- state ----
    [[nodiscard]] bool is_started() const { return is_started_; }
    // No more data will come; what was received stays readable.
    [[nodiscard]] bool is_peer_shut() const { return is_peer_shut_; }
    // The peer takes nothing either.
    [[nodiscard]] bool is_peer_gone() const { return is_peer_gone_; }
    // DISCONNECT was handed out, or both ends have shut their writing.
    [[nodiscard]] bool is_over() const { return has_disconnected_ || is_peer_gone_; }
    // Bytes that the peer has room for, as far as it has said: a hint for how much to keep queued.
    [[nodiscard]] std::uint64_t window() const { return largest_grant_ * kTargets; }
    [[nodiscard]] std::size_t segment_count() const { return segments_.size(); }

private:
    enum class End : std::uint8_t { none, shutdown, disconnect };

    struct Segment {
        RemoteRange range;
        std::uint32_t filled = 0;
        std::uint32_t consumed = 0;
        std::uint32_t retained = 0;  // views that were taken and not released
    };

    [[nodiscard]] Expected<void> handle_data(std::uint32_t length);
    [[nodiscard]] Expected<void> handle_update(std::uint32_t value);
    [[nodiscard]] Expected<void> handle_mapping(std::uint32_t number);
    [[nodiscard]] Expected<void> count_credit(const char* what);
    [[nodiscard]] bool has_credit() const;
    [[nodiscard]] bool load_descriptor();
    void clear_entry(std::uint32_t entry);
    [[nodiscard]] bool can_grant() const;
    [[nodiscard]] std::uint16_t reserve() const;
    void grant(std::uint16_t index);
    void advance(std::uint32_t length);
    void free_if_done(std::uint16_t index);

    const Config config_;
    std::vector<Segment> segments_;
    std::vector<std::uint16_t> free_;  // last in, first out: its memory is warm

    // Granted segments in order, a ring: [read_, fill_) hold data or did, [fill_, end_) are to be
    // filled. Positions run freely.
    std::array<std::uint16_t, kMaxSegments> granted_{};
    std::uint32_t read_ = 0;
    std::uint32_t fill_ = 0;
    std::uint32_t end_granted_ = 0;
    std::uint64_t readable_ = 0;
    std::uint16_t received_ = 0;    // messages that took a credit (rseq_no)
    std::uint16_t published_ = 0;   // up to which the peer may send
    std::uint32_t next_entry_ = 1;  // of the peer's array, for our next descriptor

    ConnectionData peer_;
    bool swaps_ = false;
    bool is_started_ = false;
    bool is_silent_ = false;  // until the peer's first message
    bool owes_keepalive_ = false;
    bool is_peer_shut_ = false;
    bool is_peer_gone_ = false;
    bool has_disconnected_ = false;
    bool has_sent_end_ = false;
    End end_ = End::none;

    std::vector<Mapping> peer_mappings_;  // by number; length 0: none
    struct OwnMapping {
        Mapping mapping;
        bool is_used = false;
        bool is_pending = false;
    };
    std::vector<OwnMapping> own_mappings_;  // by number
    std::uint32_t pending_mappings_ = 0;

    RemoteRange current_;      // where the next chunk goes
    std::uint32_t entry_ = 0;  // of our own array, that `current_` came from
    std::uint64_t largest_grant_ = 0;
    std::uint16_t sent_ = 0;   // messages (sseq_no)
    std::uint16_t limit_ = 0;  // up to which we may send (sseq_comp)
};

}  // namespace ndv::stream

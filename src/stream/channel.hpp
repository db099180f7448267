// SPDX-License-Identifier: Apache-2.0
// The queue pair of one stream and its registered memory: receives that stay posted, the buffer
// that small sends leave from, the segments that the peer writes to. It knows how a message word
// travels on this adapter, and nothing of the protocol. The owner serialises all calls but
// segment_data().
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/expected.hpp"
#include "core/adapter.hpp"
#include "core/queue_pair.hpp"
#include "stream/block.hpp"
#include "stream/engine.hpp"

namespace ndv::stream {

struct StreamOptions {
    // The most that received and not yet released data may take. A quarter is one segment; two
    // are there from the start, the others when they are needed.
    std::uint32_t receive_buffer = 1024 * 1024;
    std::uint32_t send_buffer = 1024 * 1024;
    std::uint16_t receive_queue_depth = 64;  // the credits that the peer gets
    std::uint16_t send_queue_depth = 128;
    std::uint16_t inline_size = 64;   // a message up to this needs no buffer
    std::uint16_t iomap_entries = 0;  // mappings that the peer may tell of at a time
    double keepalive_s = 0;           // 0: off
};

// How words travel on this adapter; an error when it can do neither.
[[nodiscard]] Expected<Mode> mode_of(const core::AdapterInfo& info);

// One message: a write, a word, or both.
struct Outgoing {
    // The write that the chunk allows, and its word.
    void take(const Chunk& chunk) {
        has_write = true;
        target = chunk;
        word = chunk.word;
    }

    const std::byte* data = nullptr;
    std::uint32_t token = 0;  // of `data`; unused when it goes inline
    bool is_inline = false;
    bool has_write = false;
    bool has_word = true;
    bool is_signalled = false;  // ends in a completion; else in silence
    RemoteRange target;         // of the write: as much as goes there
    MessageWord word;
};

class Channel {
public:
    [[nodiscard]] static Expected<std::unique_ptr<Channel>> create(core::Adapter& adapter,
                                                                   const StreamOptions& options);
    Channel(const Channel&) = delete;
    Channel& operator=(const Channel&) = delete;
    ~Channel();

    [[nodiscard]] Mode mode() const { return mode_; }
    [[nodiscard]] const std::shared_ptr<core::QueuePair>& qp() const { return qp_; }
    [[nodiscard]] core::CompletionQueue& cq() const { return *cq_; }
    [[nodiscard]] const std::shared_ptr<core::ProtectionDomain>& pd() const { return pd_; }

    // Where the peer writes descriptors, and what it needs to know to do so.
    [[nodiscard]] std::byte* targets() const { return control_->data(); }
    [[nodiscard]] std::uint32_t targets_key() const;
    // Adds memory for the peer to write to; its length is segment_size().
    [[nodiscard]] Expected<RemoteRange> add_segment();
    [[nodiscard]] std::uint32_t segment_size() const { return segment_size_; }
    [[nodiscard]] std::size_t max_segments() const { return max_segments_; }
    // Any thread.
    [[nodiscard]] std::byte* segment_data(std::uint16_t index) const {
        return segments_[index].block->data();
    }

    // The buffer that small sends leave from.
    [[nodiscard]] std::byte* staging() const { return staging_->data(); }
    [[nodiscard]] std::uint32_t staging_size() const {
        return static_cast<std::uint32_t>(staging_->size());
    }
    [[nodiscard]] std::uint32_t staging_token() const { return staging_token_; }

    // How many requests of the queue pair a message takes.
    [[nodiscard]] std::uint32_t slots_of(const Outgoing& out) const {
        return mode_ == Mode::message && out.has_write && out.has_word ? 2 : 1;
    }
    // The caller has counted the slots. What is posted leaves with the next transmit().
    [[nodiscard]] Status post(const Outgoing& out);
    [[nodiscard]] bool transmit(core::Budget budget) { return qp_->transmit(budget); }

    // Messages that the peer may have under way: receives are posted for them, and some to spare.
    [[nodiscard]] std::uint16_t credits() const { return credits_; }
    // All receives, before the connection.
    [[nodiscard]] Expected<void> post_receives();
    // The word of a receive that has ended well, which is posted anew.
    [[nodiscard]] Expected<MessageWord> take_word(const core::Completion& done);

    // Ends the queue pair and all registrations; what was received stays where it is.
    void close();

private:
    struct Segment {
        std::shared_ptr<Block> block;
        std::shared_ptr<core::MemoryRegion> region;
    };

    Channel() = default;
    [[nodiscard]] Expected<void> open(core::Adapter& adapter, const StreamOptions& options);
    [[nodiscard]] Expected<std::shared_ptr<core::MemoryRegion>> register_part(
        const std::shared_ptr<Block>& block, std::size_t offset, std::size_t size,
        std::uint32_t rights);
    [[nodiscard]] Status post_receive(std::uint32_t slot);
    [[nodiscard]] std::byte* word_at(std::uint32_t slot) const;

    Mode mode_ = Mode::message;
    std::uint32_t receives_ = 0;
    std::uint16_t credits_ = 0;
    std::size_t words_offset_ = 0;  // in control_
    std::uint32_t segment_size_ = 0;
    std::size_t max_segments_ = 0;
    std::uint32_t staging_token_ = 0;
    std::uint32_t words_token_ = 0;
    std::shared_ptr<core::ProtectionDomain> pd_;
    std::shared_ptr<core::CompletionQueue> cq_;
    std::shared_ptr<core::QueuePair> qp_;
    std::shared_ptr<Block> control_;  // targets, then the words of receives
    std::shared_ptr<Block> staging_;
    std::shared_ptr<core::MemoryRegion> targets_region_;
    std::shared_ptr<core::MemoryRegion> words_region_;
    std::shared_ptr<core::MemoryRegion> staging_region_;
    std::vector<Segment> segments_;
};

}  // namespace ndv::stream

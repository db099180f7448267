// SPDX-License-Identifier: Apache-2.0
// Credits, segments and the meaning of messages.
#include "stream/engine.hpp"

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <span>
#include <string>

namespace ndv::stream {
namespace {

// iWARP knows no "receiver not ready": a message without a receive ends the connection, and words
// other than DATA take a receive without a credit. So much is left to them.
constexpr std::uint16_t kReserve = 4;

// In both halves of an entry that holds no descriptor: no memory lies there, and none is so long.
constexpr std::uint64_t kNothing = ~std::uint64_t{0};
static_assert(Descriptor::kSize == 2 * sizeof kNothing);
// The byte that is placed last is the length's highest, which no length has as 0xFF. On a
// big-endian host it is the lowest, and tells nothing.
static_assert(!kIsBigEndian, "streams are not ported to big-endian machines");

Unexpected violation(std::string what) {
    return fail(Status::connection_aborted, "the peer broke the stream protocol: " + what);
}

}  // namespace

Engine::Engine(const Config& config)
    : config_(config),
      published_(config.credits),
      is_silent_(config.waits_for_peer && config.mode == Mode::message) {
    segments_.reserve(kMaxSegments);
    free_.reserve(kMaxSegments);
    for (std::uint32_t entry = 0; entry < kTargets; ++entry) clear_entry(entry);
}

void Engine::add_segment(const RemoteRange& segment) {
    assert(segments_.size() < kMaxSegments);
    free_.push_back(static_cast<std::uint16_t>(segments_.size()));
    segments_.push_back({segment, 0, 0, 0});
}

ConnectionData Engine::local_data(std::uint64_t targets_address, std::uint32_t targets_key) {
    assert(!free_.empty() && end_granted_ == 0);
    const std::uint16_t first = free_.front();
    free_.erase(free_.begin());
    grant(first);
    ConnectionData out;
    out.is_big_endian = kIsBigEndian;
    out.credits = config_.credits;
    out.targets = {targets_address, targets_key, kTargets};
    out.data = segments_[first].range;
    out.iomap_entries = config_.iomap_entries;
    return out;
}

Expected<void> Engine::start(const ConnectionData& peer) {
    swaps_ = peer.is_big_endian != kIsBigEndian;
    if (swaps_ && config_.mode == Mode::message) {
        return fail(Status::not_supported,
                    "the peer's machine has the other byte order, which streams over iWARP do not "
                    "bridge",
                    "connect machines of one byte order, or use another fabric");
    }
    if (peer.targets.length == 0) return violation("it has no room for descriptors");
    peer_ = peer;
    limit_ = peer.credits;
    current_ = peer.data;
    largest_grant_ = peer.data.length;
    next_entry_ = 1 % peer.targets.length;
    is_started_ = true;
    return {};
}

// ---- messages -------------------------------------------------------------------------------

Expected<void> Engine::handle_message(MessageWord word) {
    // Behind its DISCONNECT a peer has nothing to say.
    if (is_peer_gone_) return {};
    is_silent_ = false;
    switch (word.op) {
        case MessageOp::data:
            return handle_data(word.data);
        case MessageOp::update:
            return handle_update(word.data);
        case MessageOp::iomap:
            return handle_mapping(word.data);
        case MessageOp::control:
            if (word.data == static_cast<std::uint32_t>(ControlCode::disconnect)) {
                is_peer_shut_ = is_peer_gone_ = true;
            } else if (word.data == static_cast<std::uint32_t>(ControlCode::shutdown)) {
                is_peer_shut_ = true;
                if (has_sent_end_) is_peer_gone_ = true;
            }
            return {};  // others are for versions to come
        case MessageOp::write:
            return {};
        case MessageOp::reserved_1:
        case MessageOp::reserved_3:
        case MessageOp::reserved_5:
            break;
    }
    return violation("message " + std::to_string(static_cast<unsigned>(word.op)) +
                     " is not defined");
}

Expected<void> Engine::count_credit(const char* what) {
    if (received_ == published_) {
        return violation(std::string("more ") + what + " than it has credits for");
    }
    ++received_;
    return {};
}

Expected<void> Engine::handle_data(std::uint32_t length) {
    if (is_peer_shut_) return violation("data after its end");
    if (length == 0) return violation("a data message of no bytes");
    if (auto counted = count_credit("messages"); !counted) return counted;
    if (fill_ == end_granted_) return violation("data without memory granted to it");
    Segment& segment = segments_[granted_[fill_ % kMaxSegments]];
    if (length > segment.range.length - segment.filled) {
        return violation("a message of " + std::to_string(length) + " bytes, where " +
                         std::to_string(segment.range.length - segment.filled) +
                         " are left of the memory granted to it");
    }
    segment.filled += length;
    readable_ += length;
    if (segment.filled == segment.range.length) ++fill_;
    return {};
}

Expected<void> Engine::handle_update(std::uint32_t value) {
    const auto limit = static_cast<std::uint16_t>(value);
    // Credits are what it keeps posted: more in flight than that would find no receive.
    if (static_cast<std::uint16_t>(limit - sent_) > peer_.credits) {
        return violation("credits up to message " + std::to_string(limit) + " after " +
                         std::to_string(sent_) + " were sent, with a queue of " +
                         std::to_string(peer_.credits));
    }
    limit_ = limit;
    return {};
}

// It took a credit, which librdmacm's receiver forgets to give back.
Expected<void> Engine::handle_mapping(std::uint32_t number) {
    if (auto counted = count_credit("mappings"); !counted) return counted;
    if (number >= config_.iomap_entries) {
        return violation("mapping " + std::to_string(number) + ", where there is room for " +
                         std::to_string(config_.iomap_entries));
    }
    // Read now: the entry may be written anew later.
    peer_mappings_.resize(config_.iomap_entries);
    peer_mappings_[number] = Mapping::parse(std::span<const std::byte, Mapping::kSize>(
        config_.targets + target_bytes(number), Mapping::kSize));
    return {};
}

void Engine::shut_write() {
    if (end_ == End::none) end_ = End::shutdown;
}

void Engine::disconnect() {
    if (end_ == End::disconnect) return;
    end_ = End::disconnect;
    has_sent_end_ = false;
}

bool Engine::poll_control(Control& out) {
    if (!is_started_ || is_silent_ || has_disconnected_ || is_peer_gone_) return false;
    out = Control{};
    if (!is_peer_shut_ && end_ != End::disconnect) {
        const bool grants = can_grant();
        const auto used = static_cast<std::uint16_t>(
            config_.credits - static_cast<std::uint16_t>(published_ - received_));
        if (grants || (used > 0 && used >= config_.credits / 2)) {
            published_ = static_cast<std::uint16_t>(received_ + config_.credits);
            out.word = {MessageOp::update, published_};
            if (grants) {
                const std::uint16_t index = free_.back();
                free_.pop_back();
                grant(index);
                out.has_write = true;
                std::ranges::copy(Descriptor{segments_[index].range}.emit(swaps_),
                                  out.bytes.begin());
                out.target = {peer_.targets.address + Descriptor::kSize * next_entry_,
                              peer_.targets.key, Descriptor::kSize};
                next_entry_ = (next_entry_ + 1) % peer_.targets.length;
            }
            return true;
        }
    }
    if (pending_mappings_ > 0 && end_ == End::none && has_credit()) {
        const auto found = std::ranges::find_if(
            own_mappings_, [](const OwnMapping& one) { return one.is_pending; });
        const auto number = static_cast<std::uint32_t>(found - own_mappings_.begin());
        found->is_pending = false;
        --pending_mappings_;
        ++sent_;
        out.has_write = true;
        out.bytes = found->mapping.emit(swaps_);
        out.target = {peer_.targets.address + Descriptor::kSize * peer_.targets.length +
                          Mapping::kSize * number,
                      peer_.targets.key, Mapping::kSize};
        out.word = {MessageOp::iomap, number};
        return true;
    }
    if (owes_keepalive_) {
        owes_keepalive_ = false;
        out.has_write = true;
        out.has_word = false;
        return true;
    }
    if (end_ != End::none && !has_sent_end_) {
        has_sent_end_ = true;
        // When the peer has ended before, this ends the connection.
        const bool is_shutdown = end_ == End::shutdown && !is_peer_shut_;
        has_disconnected_ = !is_shutdown;
        out.word = {MessageOp::control,
                    static_cast<std::uint32_t>(is_shutdown ? ControlCode::shutdown
                                                           : ControlCode::disconnect)};
        return true;
    }
    return false;
}

// ---- sending --------------------------------------------------------------------------------

std::uint16_t Engine::reserve() const {
    if (config_.mode == Mode::immediate) return 0;
    return std::min(kReserve, static_cast<std::uint16_t>(peer_.credits / 4));
}

bool Engine::has_credit() const { return static_cast<std::uint16_t>(limit_ - sent_) > reserve(); }

// The entry is ours from the peer's update on until we have used it up. This looks while it may be
// placed, in order but not at once: it is there when its last byte is, and its first half.
bool Engine::load_descriptor() {
    std::byte* const at = config_.targets + static_cast<std::size_t>(entry_) * Descriptor::kSize;
    auto* const halves = reinterpret_cast<std::uint64_t*>(at);
    std::array<std::uint64_t, 2> seen{};
    for (std::size_t i = 2; i-- > 0;) {
        // acquire: pairs with the release fence of the stepper that places a Write, or with the
        // device: a first half that is read later is not older than the last one.
        seen[i] = std::atomic_ref(halves[i]).load(std::memory_order_acquire);
    }
    std::array<std::byte, Descriptor::kSize> bytes;
    std::memcpy(bytes.data(), seen.data(), bytes.size());
    if (seen[0] == kNothing || bytes.back() == std::byte{0xFF}) return false;
    const RemoteRange range = Descriptor::parse(bytes).range;
    if (range.length == 0) return false;
    current_ = range;
    clear_entry(entry_);
    largest_grant_ = std::max<std::uint64_t>(largest_grant_, current_.length);
    return true;
}

// Until the peer writes it anew there is nothing here.
void Engine::clear_entry(std::uint32_t entry) {
    auto* const halves = reinterpret_cast<std::uint64_t*>(
        config_.targets + static_cast<std::size_t>(entry) * Descriptor::kSize);
    for (std::size_t i = 0; i < 2; ++i) {
        // relaxed: the peer writes here again after a message that is posted later.
        std::atomic_ref(halves[i]).store(kNothing, std::memory_order_relaxed);
    }
}

std::uint32_t Engine::sendable() {
    if (!is_started_ || is_silent_ || is_peer_gone_ || end_ != End::none) return 0;
    // A mapping comes before the data behind it.
    if (!has_credit() || pending_mappings_ > 0) return 0;
    if (current_.length == 0 && !load_descriptor()) return 0;
    return std::min(current_.length, config_.max_chunk);
}

Chunk Engine::take_chunk(std::uint32_t most) {
    const std::uint32_t length = std::min(most, sendable());
    assert(length > 0);
    const Chunk out{{current_.address, current_.key, length}, {MessageOp::data, length}};
    ++sent_;
    current_.address += length;
    current_.length -= length;
    if (current_.length == 0) entry_ = (entry_ + 1) % kTargets;
    return out;
}

// ---- mappings -------------------------------------------------------------------------------

Expected<std::uint32_t> Engine::add_mapping(const Mapping& mapping) {
    own_mappings_.resize(peer_.iomap_entries);
    const auto found =
        std::ranges::find_if(own_mappings_, [](const OwnMapping& one) { return !one.is_used; });
    if (found == own_mappings_.end()) {
        return fail(
            Status::insufficient_resources,
            "the peer has room for " + std::to_string(peer_.iomap_entries) + " mappings at a time",
            "set RDMA_IOMAPSIZE of the peer's socket before it connects", ENOBUFS);
    }
    *found = {mapping, true, true};
    ++pending_mappings_;
    return static_cast<std::uint32_t>(found - own_mappings_.begin());
}

void Engine::remove_mapping(std::uint32_t number) {
    if (own_mappings_[number].is_pending) --pending_mappings_;
    own_mappings_[number] = {};
}

RemoteRange Engine::find_mapping(std::uint64_t offset) const {
    for (const Mapping& one : peer_mappings_) {
        if (offset < one.offset || offset - one.offset >= one.range.length) continue;
        const auto into = static_cast<std::uint32_t>(offset - one.offset);
        return {one.range.address + into, one.range.key, one.range.length - into};
    }
    return {};
}

// ---- received data --------------------------------------------------------------------------

void Engine::grant(std::uint16_t index) {
    Segment& segment = segments_[index];
    segment.filled = segment.consumed = 0;
    granted_[end_granted_ % kMaxSegments] = index;
    ++end_granted_;
}

bool Engine::can_grant() const {
    // An entry of the peer's array may be written anew once what it described is filled.
    const std::uint32_t most = std::min<std::uint32_t>(kTargets, peer_.targets.length);
    return !free_.empty() && end_granted_ - fill_ < most;
}

bool Engine::wants_segment() const {
    if (!is_started_ || is_peer_shut_ || !free_.empty()) return false;
    const std::uint32_t most = std::min<std::uint32_t>(kTargets, peer_.targets.length);
    return end_granted_ - fill_ < most && segments_.size() < kMaxSegments;
}

View Engine::front() const {
    if (readable_ == 0) return {};
    const std::uint16_t index = granted_[read_ % kMaxSegments];
    const Segment& segment = segments_[index];
    return {index, segment.consumed, segment.filled - segment.consumed};
}

void Engine::advance(std::uint32_t length) {
    const std::uint16_t index = granted_[read_ % kMaxSegments];
    Segment& segment = segments_[index];
    assert(length <= segment.filled - segment.consumed);
    segment.consumed += length;
    readable_ -= length;
    if (segment.consumed == segment.range.length) ++read_;
}

void Engine::free_if_done(std::uint16_t index) {
    const Segment& segment = segments_[index];
    if (segment.consumed == segment.range.length && segment.retained == 0) free_.push_back(index);
}

void Engine::consume(std::uint32_t length) {
    if (length == 0) return;
    const std::uint16_t index = granted_[read_ % kMaxSegments];
    advance(length);
    free_if_done(index);
}

View Engine::take(std::uint32_t length) {
    View out = front();
    out.length = std::min(out.length, length);
    if (out.length == 0) return {};
    advance(out.length);
    ++segments_[out.segment].retained;
    return out;
}

void Engine::release(const View& view) {
    Segment& segment = segments_[view.segment];
    assert(segment.retained > 0);
    --segment.retained;
    free_if_done(view.segment);
}

}  // namespace ndv::stream

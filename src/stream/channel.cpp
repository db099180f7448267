// SPDX-License-Identifier: Apache-2.0
// Making and ending what a stream needs of the adapter, and posting.
#include "stream/channel.hpp"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

namespace ndv::stream {
namespace {

// Receives beyond the credits: for words that take none.
constexpr std::uint32_t kSpareReceives = 16;
constexpr std::size_t kCacheLine = 64;
constexpr std::uint32_t kSegmentsOfBuffer = 4;
constexpr std::uint32_t kSmallestSegment = 2048;
constexpr std::uint32_t kSmallestStaging = 4096;
// librdmacm's limit of one half; the length of a message has 29 bits.
constexpr std::uint32_t kLargestSegment = 256U << 20U;

}  // namespace

Expected<Mode> mode_of(const core::AdapterInfo& info) {
    if (info.rdma_technology == "iWARP") return Mode::message;
    if ((info.extensions & core::extension::kImmediate) != 0) return Mode::immediate;
    return fail(Status::not_supported,
                "streams over " + info.rdma_technology +
                    " need a write with immediate data, which adapter " + info.name + " lacks",
                "use another device or another provider");
}

Expected<std::unique_ptr<Channel>> Channel::create(core::Adapter& adapter,
                                                   const StreamOptions& options) {
    std::unique_ptr<Channel> made(new Channel);
    if (auto opened = made->open(adapter, options); !opened) return Unexpected{opened.error()};
    return made;
}

Expected<void> Channel::open(core::Adapter& adapter, const StreamOptions& options) {
    auto mode = mode_of(adapter.info());
    if (!mode) return Unexpected{mode.error()};
    mode_ = *mode;
    const core::AdapterInfo& info = adapter.info();
    core::QueuePairLimits limits;
    receives_ =
        std::min(options.receive_queue_depth + kSpareReceives, info.max_receive_queue_depth);
    // A device with short queues: half of one to spare, so that a credit is never a lie.
    const std::uint32_t spare = std::min(kSpareReceives, receives_ / 2);
    credits_ = static_cast<std::uint16_t>(
        std::min<std::uint32_t>(options.receive_queue_depth, receives_ - spare));
    limits.receive_queue_depth = receives_;
    limits.initiator_queue_depth =
        std::min<std::uint32_t>(options.send_queue_depth, info.max_initiator_queue_depth);
    limits.max_receive_sge = 1;
    limits.max_initiator_sge = 1;
    limits.inline_size = std::max<std::uint32_t>(
        Mapping::kSize, std::min<std::uint32_t>(options.inline_size, info.max_inline_data_size));
    segment_size_ =
        std::clamp(options.receive_buffer / kSegmentsOfBuffer, kSmallestSegment, kLargestSegment) &
        ~1U;
    max_segments_ = std::clamp<std::size_t>(options.receive_buffer / segment_size_,
                                            Engine::kTargets, Engine::kMaxSegments);
    // segment_data() is asked without the owner's lock while add_segment() runs: nothing moves.
    segments_.reserve(max_segments_);

    const std::size_t words = static_cast<std::size_t>(receives_) * MessageWord::kSize;
    // The words lie in cache lines of their own, behind what the peer may write to.
    const std::size_t target_bytes = Engine::target_bytes(options.iomap_entries);
    words_offset_ = (target_bytes + kCacheLine - 1) / kCacheLine * kCacheLine;
    const std::size_t staging_bytes = std::max(options.send_buffer, kSmallestStaging);

    Expected<void> outcome;
    const auto keep = [&outcome](auto& to, auto made) {
        if (made) {
            to = std::move(*made);
        } else {
            outcome = Unexpected{made.error()};
        }
        return made.has_value();
    };
    using namespace core::access;
    if (keep(pd_, adapter.create_pd()) &&
        keep(cq_, adapter.create_cq(receives_ + limits.initiator_queue_depth)) &&
        keep(qp_, pd_->create_qp(cq_, cq_, nullptr, limits, nullptr)) &&
        keep(control_, Block::create(*pd_, words_offset_ + words)) &&
        keep(targets_region_, register_part(control_, 0, target_bytes, kRemoteWrite)) &&
        keep(words_region_, register_part(control_, words_offset_, words, kLocalWrite)) &&
        keep(staging_, Block::create(*pd_, staging_bytes)) &&
        keep(staging_region_, register_part(staging_, 0, staging_bytes, kLocalRead))) {
        words_token_ = words_region_->tokens().local;
        staging_token_ = staging_region_->tokens().local;
    }
    return outcome;
}

Channel::~Channel() { close(); }

Expected<std::shared_ptr<core::MemoryRegion>> Channel::register_part(
    const std::shared_ptr<Block>& block, std::size_t offset, std::size_t size,
    std::uint32_t rights) {
    auto region = pd_->create_mr();
    if (!region) return region;
    if (auto done = (*region)->register_buffer(hold_part(block, offset, size), rights); !done) {
        return Unexpected{done.error()};
    }
    return region;
}

std::uint32_t Channel::targets_key() const { return targets_region_->tokens().remote; }

Expected<RemoteRange> Channel::add_segment() {
    auto block = Block::create(*pd_, segment_size_);
    if (!block) return Unexpected{block.error()};
    auto region = register_part(*block, 0, segment_size_, core::access::kRemoteWrite);
    if (!region) return Unexpected{region.error()};
    const RemoteRange range{(*region)->address(), (*region)->tokens().remote, segment_size_};
    segments_.push_back({std::move(*block), std::move(*region)});
    return range;
}

std::byte* Channel::word_at(std::uint32_t slot) const {
    return control_->data() + words_offset_ + static_cast<std::size_t>(slot) * MessageWord::kSize;
}

Status Channel::post_receive(std::uint32_t slot) {
    const core::Segment segment{reinterpret_cast<std::uint64_t>(word_at(slot)), MessageWord::kSize,
                                words_token_};
    core::ReceiveRequest request;
    if (mode_ == Mode::message) request.segments = {&segment, 1};
    request.context = slot;
    return qp_->post_receive(request);
}

Expected<void> Channel::post_receives() {
    for (std::uint32_t slot = 0; slot < receives_; ++slot) {
        const Status status = post_receive(slot);
        if (is_failure(status)) {
            return fail(status, "a stream's receive was not posted: " +
                                    std::string(status_meaning(status)));
        }
    }
    return {};
}

Expected<MessageWord> Channel::take_word(const core::Completion& done) {
    const auto slot = static_cast<std::uint32_t>(done.context);
    MessageWord word;
    if (mode_ == Mode::immediate) {
        if (!done.has_immediate) {
            return fail(Status::connection_aborted,
                        "the peer broke the stream protocol: a message without immediate data");
        }
        word = MessageWord::unpack(static_cast<std::uint32_t>(done.immediate));
    } else {
        if (done.bytes_transferred != MessageWord::kSize) {
            return fail(Status::connection_aborted,
                        "the peer broke the stream protocol: a message of " +
                            std::to_string(done.bytes_transferred) + " bytes instead of " +
                            std::to_string(MessageWord::kSize));
        }
        word = MessageWord::parse(
            std::span<const std::byte, MessageWord::kSize>(word_at(slot), MessageWord::kSize));
    }
    // Refused when the connection ends just now; its completions tell.
    static_cast<void>(post_receive(slot));
    return word;
}

Status Channel::post(const Outgoing& out) {
    core::WorkRequest request;
    const bool carries_word = out.has_word && mode_ == Mode::immediate;
    if (out.has_write || carries_word) {
        const core::Segment segment{reinterpret_cast<std::uint64_t>(out.data), out.target.length,
                                    out.token};
        const bool is_last = carries_word || !out.has_word;
        request.type = core::OperationType::write;
        request.flags = core::flag::kDefer | (out.is_inline ? core::flag::kInline : 0) |
                        (is_last && out.is_signalled ? 0 : core::flag::kSilentSuccess);
        if (out.target.length > 0) request.segments = {&segment, 1};
        request.remote_address = out.target.address;
        request.remote_token = out.target.key;
        request.has_immediate = carries_word;
        request.operand = out.word.pack();
        const Status status = qp_->post(request);
        if (is_failure(status) || is_last) return status;
    }
    const auto word = out.word.emit();
    const core::Segment segment{reinterpret_cast<std::uint64_t>(word.data()), word.size(), 0};
    request = core::WorkRequest{};
    request.type = core::OperationType::send;
    request.flags = core::flag::kDefer | core::flag::kInline |
                    (out.is_signalled ? 0 : core::flag::kSilentSuccess);
    request.segments = {&segment, 1};
    return qp_->post(request);
}

void Channel::close() {
    if (qp_) qp_->close();
    for (const Segment& segment : segments_) segment.region->close();
    for (const auto& region : {targets_region_, words_region_, staging_region_}) {
        if (region) region->close();
    }
    if (cq_) cq_->close();
    if (pd_) pd_->close();
}

}  // namespace ndv::stream

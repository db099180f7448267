// SPDX-License-Identifier: Apache-2.0
// FPDUs and what they carry. Headers and small payload pass through staging; without CRC the rest
// of a large payload is read straight into its target.
#include "iwarp/receiver.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/bytes.hpp"
#include "base/crc32c.hpp"

namespace ndv::iwarp {
namespace {

// An FPDU of at least this much payload is expected to be followed by more of its kind: then only
// its trailer and the next header are read behind it, and the next payload goes direct, too.
constexpr std::uint32_t kDirectFollowUp = 8 * 1024;
constexpr std::size_t kBulkRead = 32 * 1024;
// Segments without payload that are not the last of their message are legal and useless.
constexpr std::uint32_t kMaxEmptySegments = 64;

// With CRC a whole FPDU is staged before a byte is placed, so there is room for several; without,
// staging only takes headers and small messages.
constexpr std::size_t kStagingWithCrc = 4 * kMaxFpdu;
constexpr std::size_t kStaging = 64 * 1024;

}  // namespace

ErrorCode write_error(AccessResult result) {
    switch (result) {
        case AccessResult::granted:
        case AccessResult::invalid_stag:
        case AccessResult::denied:  // DDP has no code for rights
            break;
        case AccessResult::not_associated:
            return error::kTaggedNotAssociated;
        case AccessResult::wrap:
            return error::kTaggedWrap;
        case AccessResult::bounds:
            return error::kTaggedBounds;
    }
    return error::kTaggedInvalidStag;
}

Receiver::Receiver(Life& life, Sender& sender, SendQueue& send_queue, ReceiveQueue& receive_queue,
                   RemoteMemory& memory, ReceiveSupply* supply)
    : life_(life),
      sender_(sender),
      send_queue_(send_queue),
      receive_queue_(receive_queue),
      memory_(memory),
      supply_(supply),
      staging_size_(life.config().crc ? kStagingWithCrc : kStaging),
      staging_(std::make_unique_for_overwrite<std::byte[]>(staging_size_)),
      receive_next_(receive_queue.cursor.head_position()) {}

bool Receiver::wants_read() const {
    return life_.is_open() && !is_paused_ && !life_.peer_has_closed();
}

std::size_t Receiver::poll_receive(iovec* out, std::size_t max, std::size_t budget) {
    direct_planned_ = 0;
    if (!wants_read()) return 0;
    std::size_t count = 0;
    std::size_t read_ahead = kBulkRead;
    if (phase_ == Phase::payload && !life_.config().crc) {
        // Staging is empty here: process() placed all it had.
        const std::size_t size = std::min<std::size_t>(payload_left_, budget);
        count = target(size, out, max - 1);
        if (!life_.is_open()) return 0;
        for (std::size_t i = 0; i < count; ++i) direct_planned_ += out[i].iov_len;
        if (direct_planned_ < payload_left_) return count;
        if (payload_size_ >= kDirectFollowUp) {
            read_ahead = pad_size(fpdu_.control.ulpdu_length) + kCrcSize + TaggedHeader::kSize;
        }
    }
    make_room(read_ahead);
    const std::size_t room = staging_size_ - end_;
    // With CRC a read never asks for less than what completes a frame of any size.
    const std::size_t size = life_.config().crc ? room : std::min(room, read_ahead);
    out[count++] = {staging_.get() + end_, size};
    return count;
}

// Staging has room for `size` more bytes, or is full with one frame in progress.
void Receiver::make_room(std::size_t size) {
    if (begin_ == end_) begin_ = end_ = 0;
    const std::size_t wanted = life_.config().crc ? kMaxFpdu : size;
    if (begin_ == 0 || staging_size_ - end_ >= wanted) return;
    std::memmove(staging_.get(), staging_.get() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
}

void Receiver::handle_received(std::size_t size, Time now) {
    life_.counters().bytes_in += size;
    life_.set_now(now);
    const std::size_t direct = std::min(size, direct_planned_);
    direct_planned_ = 0;
    if (direct > 0) {
        advance_target(direct);
        payload_left_ -= static_cast<std::uint32_t>(direct);
        if (payload_left_ == 0) phase_ = Phase::trailer;
    }
    end_ += size - direct;
    process();
    if (untagged_.offset - held_offset_ >= kNoticeable) {
        held_offset_ = untagged_.offset;
        held_since_ = now;
    }
}

void Receiver::process() {
    while (life_.is_open() && !is_paused_) {
        switch (phase_) {
            case Phase::header:
                if (!begin_fpdu()) return;
                break;
            case Phase::payload:
                if (!place_payload()) return;
                break;
            case Phase::trailer: {
                const std::size_t trailer = pad_size(fpdu_.control.ulpdu_length) + kCrcSize;
                if (end_ - begin_ < trailer) return;
                begin_ += trailer;
                end_fpdu();
                break;
            }
        }
    }
}

// The size of the header of the FPDU that begins, as far as all FPDUs are checked alike. 0: more
// bytes are needed, or the stream failed.
std::size_t Receiver::take_header() {
    const std::size_t available = end_ - begin_;
    const std::byte* at = staging_.get() + begin_;
    if (available < kLengthSize) return 0;
    const std::size_t ulpdu = base::load_be<std::uint16_t>(at);
    if (life_.config().crc) {
        const std::size_t covered = fpdu_size(ulpdu) - kCrcSize;
        if (available < covered + kCrcSize) return 0;
        if (base::crc32c(0, at, covered) != base::load_le32(at + covered)) {
            life_.fail(error::kLlpCrc);
            return 0;
        }
    }
    // Fewer than two bytes of ULPDU have no control octets.
    if (ulpdu < Control::kSize - kLengthSize) {
        life_.fail(error::kLlpLength);
        return 0;
    }
    if (available < Control::kSize) return 0;
    fpdu_.control = Control::parse(std::span<const std::byte, Control::kSize>(at, Control::kSize));
    // The layout behind a wrong version or opcode is not known: no header goes with the error.
    if (fpdu_.control.ddp_version != Control::kDdpVersion) {
        life_.fail(fpdu_.control.tagged ? error::kTaggedVersion : error::kUntaggedVersion);
        return 0;
    }
    if (fpdu_.control.rdmap_version != Control::kRdmapVersion) {
        life_.fail(error::kRdmapVersion);
        return 0;
    }
    const OpcodeRow& row = kOpcodes[fpdu_.control.opcode];
    if (!row.is_known || fpdu_.control.tagged != row.is_tagged()) {
        life_.fail(error::kUnexpectedOpcode);
        return 0;
    }
    const std::size_t frame = kLengthSize + ulpdu;
    std::size_t header = row.header_size;
    if (frame < header) {
        life_.fail(error::kLlpLength);
        return 0;
    }
    // A Terminate is taken whole; more than the longest one carries is not looked at.
    if (fpdu_.opcode() == Opcode::terminate) {
        header = std::min(frame, UntaggedHeader::kSize + TerminateBody::kMaxSize);
    }
    if (available < header) return 0;

    std::memcpy(fpdu_.bytes.data(), at, std::min(header, fpdu_.bytes.size()));
    payload_size_ = payload_left_ = static_cast<std::uint32_t>(frame - header);
    if (payload_size_ == 0 && !fpdu_.control.last) {
        if (++empty_segments_ > kMaxEmptySegments) {
            refuse(error::kStreamCatastrophic);
            return 0;
        }
    } else {
        empty_segments_ = 0;
    }
    return header;
}

// True: the FPDU is taken. False: more bytes, or a receive, are needed, or the stream failed.
bool Receiver::begin_fpdu() {
    const std::size_t header = take_header();
    if (header == 0) return false;
    const std::span<const std::byte> bytes(staging_.get() + begin_, header);
    bool is_taken = false;
    switch (fpdu_.opcode()) {
#define NDV_X(name, value, begin, ...)   \
    case Opcode::name:                   \
        is_taken = begin_##begin(bytes); \
        break;
        NDV_OPCODE_LIST(NDV_X)
#undef NDV_X
    }
    if (!is_taken) return false;
    begin_ += header;
    phase_ = payload_left_ > 0 ? Phase::payload : Phase::trailer;
    return true;
}

bool Receiver::begin_write(std::span<const std::byte> bytes) {
    const auto header = TaggedHeader::parse(bytes.first<TaggedHeader::kSize>());
    if (tagged_.is_active) {
        if (tagged_.opcode != Opcode::write) return refuse(error::kUnexpectedOpcode);
        if (header.stag != tagged_.stag) return refuse(error::kTaggedInvalidStag);
        if (header.to != tagged_.to) return refuse(error::kTaggedBounds);
    } else {
        write_bytes_ = 0;
    }
    write_bytes_ += payload_size_;
    tagged_ = {true, Opcode::write, header.stag, header.to, 0, 0};
    // RFC 5041 section 7.1 checks what carries data: a zero-length Write is not checked.
    if (payload_size_ == 0) return true;
    unpin_target();
    const AccessResult result =
        memory_.pin(header.stag, header.to, payload_size_, RemoteRight::write, target_pin_);
    if (result == AccessResult::granted) return true;
    target_pin_ = Pin{};
    return refuse(write_error(result));
}

bool Receiver::begin_read_response(std::span<const std::byte> bytes) {
    const auto header = TaggedHeader::parse(bytes.first<TaggedHeader::kSize>());
    if ((tagged_.is_active && tagged_.opcode != Opcode::read_response) ||
        sender_.reads().count() == 0) {
        return refuse(error::kUnexpectedOpcode);
    }
    std::uint32_t stag = 0;
    std::uint32_t expected = 0;
    std::uint32_t size = 0;
    std::uint32_t position = 0;
    if (!sender_.reads().has_opening) {
        position = sender_.reads().front();
        const SendRequest& request = send_queue_[position];
        // No peer can answer a request that is not fully out.
        if (request.kind != RequestKind::read ||
            request.progress != SendRequest::Progress::transmitted) {
            return refuse(error::kUnexpectedOpcode);
        }
        stag = request.sink_stag;
        expected = request.received;
        size = request.length;
    }
    if (header.stag != stag) return refuse(error::kTaggedInvalidStag);
    const std::uint64_t end = std::uint64_t{expected} + payload_size_;
    if (header.to != expected || end > size || (fpdu_.control.last && end != size)) {
        return refuse(error::kTaggedBounds);
    }
    tagged_ = {true, Opcode::read_response, header.stag, header.to, 0, 0};
    return true;
}

bool Receiver::begin_send(std::span<const std::byte> bytes) {
    const auto header = UntaggedHeader::parse(bytes.first<UntaggedHeader::kSize>());
    if (!check_send_order(header)) return false;
    if (untagged_.is_active) {
        if (fpdu_.opcode() != untagged_.opcode ||
            header.invalidate_stag != untagged_.invalidate_stag) {
            return refuse(error::kUnexpectedOpcode);
        }
    }
    if (header.mo != (untagged_.is_active ? untagged_.offset : 0)) {
        return refuse(error::kUntaggedMo);
    }
    const bool is_rtr = life_.config().rtr == RtrKind::send && !life_.config().is_initiator &&
                        !any_fpdu_in_ && payload_size_ == 0 && fpdu_.control.last;
    if (!untagged_.is_active && !is_rtr && !take_receive()) return false;
    if (!is_rtr) {
        ReceiveRequest& receive = receive_queue_[receive_next_];
        if (std::uint64_t{header.mo} + payload_size_ > receive.length) {
            receive.status = Status::buffer_overflow;
            return refuse(error::kUntaggedTooLong);
        }
    }
    untagged_ = {true, fpdu_.opcode(), 0, 0, header.mo, header.invalidate_stag, is_rtr};
    return true;
}

bool Receiver::begin_read_request(std::span<const std::byte> bytes) {
    const auto header = UntaggedHeader::parse(bytes.first<UntaggedHeader::kSize>());
    if (const ErrorCode code = check_request(header); code != error::kNone) return refuse(code);
    Job& job = sender_.jobs().incoming();
    job.msn = header.msn;
    job.is_atomic = false;
    job.body =
        ReadRequestBody::parse(bytes.subspan<UntaggedHeader::kSize, ReadRequestBody::kSize>());
    job.built = 0;
    return true;
}

// False: nothing comes behind it.
bool Receiver::begin_terminate(std::span<const std::byte> bytes) {
    const auto header = UntaggedHeader::parse(bytes.first<UntaggedHeader::kSize>());
    if (header.queue_number != kQueueTerminate) return refuse(error::kUntaggedQueue);
    TerminateBody body;
    // An opcode that siw does not know, it refuses with a word that could be one of start-up.
    const bool is_start_up = !any_fpdu_in_ && !sender_.has_sent_extension();
    if (!TerminateBody::parse(bytes.subspan(UntaggedHeader::kSize), is_start_up, body)) {
        life_.fail(error::kLlpLength);
        return false;
    }
    sender_.blame_for(body);
    life_.end({Cause::Source::peer, body.error, 0});
    return false;
}

// Pieces of the target for the next `size` payload bytes.
std::size_t Receiver::target(std::size_t size, iovec* out, std::size_t max) {
    if (fpdu_.opcode() == Opcode::write) {
        if (target_pin_.entry == nullptr) {
            // A new step: the region may be gone by now.
            const AccessResult result = memory_.pin(tagged_.stag, tagged_.to, payload_left_,
                                                    RemoteRight::write, target_pin_);
            if (result != AccessResult::granted) {
                target_pin_ = Pin{};
                refuse(write_error(result));
                return 0;
            }
        }
        return slice_pin(memory_, target_pin_, target_done_, size, out, max);
    }
    if (fpdu_.opcode() == Opcode::read_response) {
        const std::uint32_t position = sender_.reads().front();
        return slice_segments(send_queue_.segments(position), send_queue_[position].received, size,
                              out, max);
    }
    return slice_segments(receive_queue_.segments(receive_next_), untagged_.offset, size, out, max);
}

void Receiver::advance_target(std::size_t size) {
    const auto size32 = static_cast<std::uint32_t>(size);
    if (fpdu_.opcode() == Opcode::write) {
        target_done_ += size;
        tagged_.to += size;
    } else if (fpdu_.opcode() == Opcode::read_response) {
        send_queue_[sender_.reads().front()].received += size32;
    } else {
        untagged_.offset += size32;
    }
}

void Receiver::unpin_target() {
    if (target_pin_.entry != nullptr) memory_.unpin(target_pin_);
    target_pin_ = Pin{};
    target_done_ = 0;
}

// True: the payload is complete.
bool Receiver::place_payload() {
    std::array<iovec, 16> pieces;
    while (payload_left_ > 0 && begin_ != end_) {
        const std::size_t size = std::min<std::size_t>(payload_left_, end_ - begin_);
        const std::size_t count = target(size, pieces.data(), pieces.size());
        if (!life_.is_open()) return false;
        for (std::size_t i = 0; i < count; ++i) {
            // In stream order, low address first: programs spin on the last byte.
            std::memcpy(pieces[i].iov_base, staging_.get() + begin_, pieces[i].iov_len);
            begin_ += pieces[i].iov_len;
            payload_left_ -= static_cast<std::uint32_t>(pieces[i].iov_len);
            advance_target(pieces[i].iov_len);
        }
    }
    if (payload_left_ > 0) return false;
    phase_ = Phase::trailer;
    return true;
}

void Receiver::end_fpdu() {
    // release: a program that spins on memory and sees this FPDU's bytes, or those of a later one,
    // sees all that came before. (The thread sanitizer knows no fences; ours is for such programs.)
#if !defined(__SANITIZE_THREAD__)
    std::atomic_thread_fence(std::memory_order_release);
#endif
    ++life_.counters().fpdus_in;
    phase_ = Phase::header;
    if (!any_fpdu_in_) {
        any_fpdu_in_ = true;
        sender_.release_hold();
        sender_.stop_waking();
        life_.events().first_fpdu = true;
    }
    if (!fpdu_.control.last) return;
    switch (fpdu_.opcode()) {
#define NDV_X(name, value, begin, end, ...) \
    case Opcode::name:                      \
        return end_##end();
        NDV_OPCODE_LIST(NDV_X)
#undef NDV_X
    }
}

void Receiver::end_write() {
    tagged_.is_active = false;
    written_ = write_bytes_;
}

void Receiver::end_read_response() {
    tagged_.is_active = false;
    if (sender_.reads().has_opening) {
        sender_.reads().has_opening = false;
    } else {
        sender_.end_read();
    }
    life_.check_drained();
}

void Receiver::end_request() {
    ++expected_read_msn_;
    sender_.jobs().push();
}

void Receiver::end_send() {
    untagged_.is_active = false;
    written_ = 0;
    ++expected_send_msn_;
    if (untagged_.is_rtr) return;
    ReceiveRequest& receive = receive_queue_[receive_next_];
    receive.received = untagged_.offset;
    receive.is_solicited = row_of(fpdu_.opcode()).solicits;
    if (row_of(fpdu_.opcode()).invalidates) {
        life_.let_pins_go();
        const AccessResult result = memory_.invalidate(untagged_.invalidate_stag);
        if (result != AccessResult::granted) {
            refuse(result == AccessResult::not_associated ? error::kProtectionCannotInvalidate
                                                          : error::kCannotInvalidate);
        } else {
            receive.has_invalidated = true;
            receive.invalidated_stag = untagged_.invalidate_stag;
        }
        // A response that is half out goes on, before a Terminate as well.
        sender_.take_pins_again();
        if (result != AccessResult::granted) return;
    }
    ++receive_next_;
}

}  // namespace ndv::iwarp

// SPDX-License-Identifier: Apache-2.0
// What comes in: FPDUs cut anywhere are parsed, checked and placed. Headers and small payload pass
// through staging; without CRC the rest of a large payload is read straight into its target.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/bytes.hpp"
#include "base/crc32c.hpp"
#include "iwarp/connection.hpp"

namespace ndv::iwarp {
namespace {

// An FPDU of at least this much payload is expected to be followed by more of its kind: then only
// its trailer and the next header are read behind it, and the next payload goes direct, too.
constexpr std::uint32_t kDirectFollowUp = 8 * 1024;
constexpr std::size_t kBulkRead = 32 * 1024;
// Segments without payload that are not the last of their message are legal and useless.
constexpr std::uint32_t kMaxEmptySegments = 64;

// A message that gets fewer bytes at a time stands still: one byte now and then is cheap.
constexpr std::uint32_t kNoticeable = 4096;

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

}  // namespace

bool Connection::wants_read() const {
    return state_ == State::open && !is_paused_ && !peer_closed_;
}

std::size_t Connection::poll_receive(iovec* out, std::size_t max, std::size_t budget) {
    direct_planned_ = 0;
    if (!wants_read()) return 0;
    std::size_t count = 0;
    std::size_t read_ahead = kBulkRead;
    if (phase_ == Phase::payload && !config_.crc) {
        // Staging is empty here: process() placed all it had.
        const std::size_t size = std::min<std::size_t>(payload_left_, budget);
        count = target(size, out, max - 1);
        if (state_ != State::open) return 0;
        for (std::size_t i = 0; i < count; ++i) direct_planned_ += out[i].iov_len;
        if (direct_planned_ < payload_left_) return count;
        if (payload_size_ >= kDirectFollowUp) {
            read_ahead = pad_size(control_.ulpdu_length) + kCrcSize + TaggedHeader::kSize;
        }
    }
    make_room(read_ahead);
    const std::size_t room = staging_size_ - end_;
    // With CRC a read never asks for less than what completes a frame of any size.
    const std::size_t size = config_.crc ? room : std::min(room, read_ahead);
    out[count++] = {staging_.get() + end_, size};
    return count;
}

// Staging has room for `size` more bytes, or is full with one frame in progress.
void Connection::make_room(std::size_t size) {
    if (begin_ == end_) begin_ = end_ = 0;
    const std::size_t wanted = config_.crc ? kMaxFpdu : size;
    if (begin_ == 0 || staging_size_ - end_ >= wanted) return;
    std::memmove(staging_.get(), staging_.get() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
}

void Connection::handle_received(std::size_t size, Time now) {
    counters_.bytes_in += size;
    now_ = now;
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

void Connection::process() {
    while (state_ == State::open && !is_paused_) {
        switch (phase_) {
            case Phase::header:
                if (!begin_fpdu()) return;
                break;
            case Phase::payload:
                if (!place_payload()) return;
                break;
            case Phase::trailer: {
                const std::size_t trailer = pad_size(control_.ulpdu_length) + kCrcSize;
                if (end_ - begin_ < trailer) return;
                begin_ += trailer;
                end_fpdu();
                break;
            }
        }
    }
}

// True: a header was taken. False: more bytes, or a receive, are needed, or the stream failed.
bool Connection::begin_fpdu() {
    const std::size_t available = end_ - begin_;
    const std::byte* at = staging_.get() + begin_;
    if (available < kLengthSize) return false;
    const std::size_t ulpdu = base::load_be<std::uint16_t>(at);
    if (config_.crc) {
        const std::size_t covered = fpdu_size(ulpdu) - kCrcSize;
        if (available < covered + kCrcSize) return false;
        if (base::crc32c(0, at, covered) != base::load_le32(at + covered)) {
            fail(error::kLlpCrc, false);
            return false;
        }
    }
    // Fewer than two bytes of ULPDU have no control octets.
    if (ulpdu < Control::kSize - kLengthSize) {
        fail(error::kLlpLength, false);
        return false;
    }
    if (available < Control::kSize) return false;
    control_ = Control::parse(std::span<const std::byte, Control::kSize>(at, Control::kSize));
    // The layout behind a wrong version or opcode is not known: no header goes with the error.
    if (control_.ddp_version != Control::kDdpVersion) {
        fail(control_.tagged ? error::kTaggedVersion : error::kUntaggedVersion, false);
        return false;
    }
    if (control_.rdmap_version != Control::kRdmapVersion) {
        fail(error::kRdmapVersion, false);
        return false;
    }
    const OpcodeRow& row = kOpcodes[control_.opcode];
    if (!row.is_known || control_.tagged != row.is_tagged) {
        fail(error::kUnexpectedOpcode, false);
        return false;
    }
    opcode_ = static_cast<Opcode>(control_.opcode);
    const std::size_t frame = kLengthSize + ulpdu;
    std::size_t header = row.header_size;
    if (frame < header) {
        fail(error::kLlpLength, false);
        return false;
    }
    // A Terminate is taken whole; more than the longest one carries is not looked at.
    if (opcode_ == Opcode::terminate) {
        header = std::min(frame, UntaggedHeader::kSize + TerminateBody::kMaxSize);
    }
    if (available < header) return false;

    const std::span<const std::byte> bytes(at, header);
    std::memcpy(culprit_.data(), at, std::min(header, culprit_.size()));
    payload_size_ = payload_left_ = static_cast<std::uint32_t>(frame - header);
    if (payload_size_ == 0 && !control_.last) {
        if (++empty_segments_ > kMaxEmptySegments) {
            fail(error::kStreamCatastrophic, true);
            return false;
        }
    } else {
        empty_segments_ = 0;
    }
    bool is_taken = false;
    switch (opcode_) {
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

bool Connection::begin_write(std::span<const std::byte> bytes) {
    const auto header = TaggedHeader::parse(bytes.first<TaggedHeader::kSize>());
    if (tagged_.is_active) {
        if (tagged_.opcode != Opcode::write) {
            fail(error::kUnexpectedOpcode, true);
            return false;
        }
        if (header.stag != tagged_.stag || header.to != tagged_.to) {
            fail(header.stag != tagged_.stag ? error::kTaggedInvalidStag : error::kTaggedBounds,
                 true);
            return false;
        }
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
    fail(write_error(result), true);
    return false;
}

bool Connection::begin_read_response(std::span<const std::byte> bytes) {
    const auto header = TaggedHeader::parse(bytes.first<TaggedHeader::kSize>());
    if ((tagged_.is_active && tagged_.opcode != Opcode::read_response) ||
        outstanding_reads() == 0) {
        fail(error::kUnexpectedOpcode, true);
        return false;
    }
    std::uint32_t stag = 0;
    std::uint32_t expected = 0;
    std::uint32_t size = 0;
    std::uint32_t position = 0;
    if (!rtr_read_outstanding_) {
        position = reads_[read_head_ % reads_.size()];
        const SendRequest& request = send_queue_[position];
        // Nobody can answer a request that is not fully out.
        if (request.kind != RequestKind::read ||
            request.progress != SendRequest::Progress::transmitted) {
            fail(error::kUnexpectedOpcode, true);
            return false;
        }
        stag = request.sink_stag;
        expected = request.received;
        size = request.length;
    }
    if (header.stag != stag) {
        fail(error::kTaggedInvalidStag, true);
        return false;
    }
    const std::uint64_t end = std::uint64_t{expected} + payload_size_;
    if (header.to != expected || end > size || (control_.last && end != size)) {
        fail(error::kTaggedBounds, true);
        return false;
    }
    tagged_ = {true, Opcode::read_response, header.stag, header.to, 0, 0};
    return true;
}

bool Connection::begin_send(std::span<const std::byte> bytes) {
    const auto header = UntaggedHeader::parse(bytes.first<UntaggedHeader::kSize>());
    if (!check_send_order(header)) return false;
    if (untagged_.is_active) {
        if (opcode_ != untagged_.opcode || header.invalidate_stag != untagged_.invalidate_stag) {
            fail(error::kUnexpectedOpcode, true);
            return false;
        }
    }
    if (header.mo != (untagged_.is_active ? untagged_.offset : 0)) {
        fail(error::kUntaggedMo, true);
        return false;
    }
    const bool is_rtr = config_.rtr == RtrKind::send && !config_.is_initiator && !any_fpdu_in_ &&
                        payload_size_ == 0 && control_.last;
    if (!untagged_.is_active && !is_rtr && !take_receive()) return false;
    if (!is_rtr) {
        ReceiveRequest& receive = receive_queue_[receive_next_];
        if (std::uint64_t{header.mo} + payload_size_ > receive.length) {
            receive.status = Status::buffer_overflow;
            fail(error::kUntaggedTooLong, true);
            return false;
        }
    }
    untagged_ = {true, opcode_, 0, 0, header.mo, header.invalidate_stag};
    return true;
}

bool Connection::begin_read_request(std::span<const std::byte> bytes) {
    const auto header = UntaggedHeader::parse(bytes.first<UntaggedHeader::kSize>());
    if (const ErrorCode code = check_request(header); code != error::kNone) {
        fail(code, true);
        return false;
    }
    Job& job = jobs_[job_tail_ % jobs_.size()];
    job.msn = header.msn;
    job.is_atomic = false;
    job.body =
        ReadRequestBody::parse(bytes.subspan<UntaggedHeader::kSize, ReadRequestBody::kSize>());
    job.built = 0;
    return true;
}

// False: nothing comes behind it.
bool Connection::begin_terminate(std::span<const std::byte> bytes) {
    const auto header = UntaggedHeader::parse(bytes.first<UntaggedHeader::kSize>());
    if (header.queue_number != kQueueTerminate) {
        fail(error::kUntaggedQueue, true);
        return false;
    }
    TerminateBody body;
    // An opcode that siw does not know, it refuses with a word that could be one of start-up.
    const bool is_start_up = !any_fpdu_in_ && !extension_sent_;
    if (!TerminateBody::parse(bytes.subspan(UntaggedHeader::kSize), is_start_up, body)) {
        fail(error::kLlpLength, false);
        return false;
    }
    cause_ = {Cause::Source::peer, body.error, 0};
    blame_for_terminate(body);
    go_over();
    return false;
}

// Pieces of the target for the next `size` payload bytes.
std::size_t Connection::target(std::size_t size, iovec* out, std::size_t max) {
    if (opcode_ == Opcode::write) {
        if (target_pin_.entry == nullptr) {
            // A new step: the region may be gone by now.
            const AccessResult result = memory_.pin(tagged_.stag, tagged_.to, payload_left_,
                                                    RemoteRight::write, target_pin_);
            if (result != AccessResult::granted) {
                target_pin_ = Pin{};
                fail(write_error(result), true);
                return 0;
            }
        }
        return slice_pin(memory_, target_pin_, target_done_, size, out, max);
    }
    if (opcode_ == Opcode::read_response) {
        const std::uint32_t position = reads_[read_head_ % reads_.size()];
        return slice_segments(send_queue_.segments(position), send_queue_[position].received, size,
                              out, max);
    }
    return slice_segments(receive_queue_.segments(receive_next_), untagged_.offset, size, out, max);
}

void Connection::advance_target(std::size_t size) {
    const auto size32 = static_cast<std::uint32_t>(size);
    if (opcode_ == Opcode::write) {
        target_done_ += size;
        tagged_.to += size;
    } else if (opcode_ == Opcode::read_response) {
        send_queue_[reads_[read_head_ % reads_.size()]].received += size32;
    } else {
        untagged_.offset += size32;
    }
}

void Connection::unpin_target() {
    if (target_pin_.entry != nullptr) memory_.unpin(target_pin_);
    target_pin_ = Pin{};
    target_done_ = 0;
}

// True: the payload is complete.
bool Connection::place_payload() {
    std::array<iovec, 16> pieces;
    while (payload_left_ > 0 && begin_ != end_) {
        const std::size_t size = std::min<std::size_t>(payload_left_, end_ - begin_);
        const std::size_t count = target(size, pieces.data(), pieces.size());
        if (state_ != State::open) return false;
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

void Connection::end_fpdu() {
    // release: a program that spins on memory and sees this FPDU's bytes, or those of a later one,
    // sees all that came before. (The thread sanitizer knows no fences; ours is for such programs.)
#if !defined(__SANITIZE_THREAD__)
    std::atomic_thread_fence(std::memory_order_release);
#endif
    ++counters_.fpdus_in;
    phase_ = Phase::header;
    if (!any_fpdu_in_) {
        any_fpdu_in_ = true;
        is_held_ = false;
        wakes_left_ = 0;
        events_.first_fpdu = true;
    }
    if (!control_.last) return;
    switch (opcode_) {
#define NDV_X(name, value, begin, end, ...) \
    case Opcode::name:                      \
        return end_##end();
        NDV_OPCODE_LIST(NDV_X)
#undef NDV_X
    }
}

void Connection::end_write() {
    tagged_.is_active = false;
    written_ = write_bytes_;
}

void Connection::end_read_response() {
    tagged_.is_active = false;
    if (rtr_read_outstanding_) {
        rtr_read_outstanding_ = false;
    } else {
        const std::uint32_t position = reads_[read_head_++ % reads_.size()];
        if (send_queue_[position].invalidates) invalidate_read_sink(position);
        if (state_ != State::open) return;
        send_queue_[position].progress = SendRequest::Progress::done;
    }
    check_drained();
}

void Connection::end_request() {
    ++expected_read_msn_;
    ++job_tail_;
}

void Connection::end_send() {
    const bool is_rtr = config_.rtr == RtrKind::send && !config_.is_initiator &&
                        expected_send_msn_ == 1 && untagged_.offset == 0 && counters_.fpdus_in == 1;
    untagged_.is_active = false;
    written_ = 0;
    ++expected_send_msn_;
    if (is_rtr) return;
    ReceiveRequest& receive = receive_queue_[receive_next_];
    receive.received = untagged_.offset;
    receive.is_solicited = row_of(opcode_).solicits;
    if (row_of(opcode_).invalidates) {
        let_pins_go();
        const AccessResult result = memory_.invalidate(untagged_.invalidate_stag);
        if (result != AccessResult::granted) {
            fail(result == AccessResult::not_associated ? error::kProtectionCannotInvalidate
                                                        : error::kCannotInvalidate,
                 true);
        } else {
            receive.has_invalidated = true;
            receive.invalidated_stag = untagged_.invalidate_stag;
        }
        take_pins_again();  // a response that is half out goes on, before a Terminate as well
        if (result != AccessResult::granted) return;
    }
    ++receive_next_;
}

}  // namespace ndv::iwarp

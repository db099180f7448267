// SPDX-License-Identifier: Apache-2.0
// RFC 7306 in both directions: immediate data behind a Write, and atomic operations. An atomic is
// run when its turn to be answered comes, so answers are in the order of the requests, and an
// earlier Read does not see what a later atomic changes.
#include <array>
#include <atomic>
#include <cstring>
#include <limits>

#include "iwarp/receiver.hpp"
#include "iwarp/sender.hpp"

namespace ndv::iwarp {
namespace {

constexpr std::uint64_t kAllBits = std::numeric_limits<std::uint64_t>::max();

// A set bit of the mask is the most significant one of a field; no carry leaves it.
std::uint64_t masked_sum(std::uint64_t left, std::uint64_t right, std::uint64_t mask) {
    return ((left & ~mask) + (right & ~mask)) ^ ((left ^ right) & mask);
}

// RFC 7306 section 5. Atomic towards other connections, and towards atomics of this host's CPUs.
// seq_cst: pairs with those of other steppers and of programs that map the word, whatever they use.
std::uint64_t run(const AtomicRequestBody& request, std::uint64_t& word) {
    const std::atomic_ref<std::uint64_t> target(word);
    if (static_cast<AtomicOperation>(request.operation) == AtomicOperation::fetch_add &&
        request.operand_mask == 0) {
        return target.fetch_add(request.operand, std::memory_order_seq_cst);
    }
    std::uint64_t before = target.load(std::memory_order_seq_cst);
    std::uint64_t after = 0;
    do {
        if (static_cast<AtomicOperation>(request.operation) == AtomicOperation::fetch_add) {
            after = masked_sum(before, request.operand, request.operand_mask);
        } else if (((before ^ request.compare) & request.compare_mask) == 0) {
            after = (before & ~request.operand_mask) | (request.operand & request.operand_mask);
        } else {
            return before;
        }
    } while (!target.compare_exchange_weak(before, after, std::memory_order_seq_cst));
    return before;
}

bool is_operation(std::uint8_t raw) {
    return raw == static_cast<std::uint8_t>(AtomicOperation::fetch_add) ||
           raw == static_cast<std::uint8_t>(AtomicOperation::compare_swap);
}

}  // namespace

// ---- out ------------------------------------------------------------------------------------

// A Write, and a second message behind it.
void Sender::build_write_immediate(Frame& out) {
    if (!immediate_is_next_) return build_write(out);
    const SendRequest& request = send_queue_[request_next_];
    const Opcode opcode = request.solicits ? Opcode::immediate_solicited : Opcode::immediate;
    const ImmediateBody body{static_cast<std::uint32_t>(request.operand), 0};
    out.is_last = true;
    immediate_is_next_ = false;
    extension_sent_ = true;
    finish_request(out, put_message(out.bytes, opcode, send_msn_++, body), 0);
}

void Sender::build_atomic_request(Frame& out) {
    SendRequest& request = send_queue_[request_next_];
    request.sink_stag = next_sink_stag();
    AtomicRequestBody body;
    const bool is_swap = request.kind == RequestKind::compare_swap;
    body.operation = static_cast<std::uint8_t>(is_swap ? AtomicOperation::compare_swap
                                                       : AtomicOperation::fetch_add);
    body.request_id = request.sink_stag;
    body.stag = request.remote_token;
    body.to = request.remote_address;
    body.operand = request.operand;
    // FetchAdd: one field of 64 bits, and what it does not compare is sent as the RFC asks for.
    body.operand_mask = is_swap ? kAllBits : 0;
    body.compare = is_swap ? request.compare : 0;
    body.compare_mask = kAllBits;
    reads_.push(request_next_);
    extension_sent_ = true;
    out.is_last = true;
    finish_request(out, put_message(out.bytes, Opcode::atomic_request, read_msn_++, body), 0);
}

AccessResult Sender::run_atomic(const AtomicRequestBody& request, std::uint64_t& value,
                                bool& is_aligned) {
    Pin pin;
    const AccessResult result =
        memory_.pin(request.stag, request.to, sizeof value, RemoteRight::atomic, pin);
    if (result != AccessResult::granted) return result;
    iovec word{};
    // A word that is aligned by both counts lies in one piece, also in pages.
    is_aligned = request.to % sizeof value == 0 &&
                 slice_pin(memory_, pin, 0, sizeof value, &word, 1) == 1 &&
                 word.iov_len == sizeof value &&
                 reinterpret_cast<std::uintptr_t>(word.iov_base) % sizeof value == 0;
    if (is_aligned) value = run(request, *static_cast<std::uint64_t*>(word.iov_base));
    memory_.unpin(pin);
    return result;
}

// False: refused; a Terminate takes the frame's place.
bool Sender::build_atomic_response() {
    const Job& job = jobs_.next();
    AtomicResponseBody body;
    body.request_id = job.atomic.request_id;
    bool is_aligned = true;
    const AccessResult result = run_atomic(job.atomic, body.value, is_aligned);
    if (result != AccessResult::granted || !is_aligned) {
        // The culprit is the Atomic Request, whose header may be overwritten by now.
        Culprit culprit;
        culprit.control = put_header(culprit.bytes, Opcode::atomic_request, job.msn,
                                     row_of(Opcode::atomic_request).header_size);
        life_.fail(is_aligned ? read_error(result) : error::kStreamCatastrophic, &culprit);
        return terminate_pending_;
    }
    Frame& out = begin_frame(FrameSource::response, jobs_.next_position());
    out.is_last = true;
    finish_frame(out, put_message(out.bytes, Opcode::atomic_response, atomic_msn_++, body));
    message_open_ = false;
    jobs_.note_built();
    return true;
}

// An Atomic Request is known by the number in its header. A peer that does not know the opcode
// sends no header, and then it was the oldest one.
bool Sender::blame_atomic(const TerminateBody& body) {
    std::uint32_t msn = read_msn_ - reads_.size();
    bool is_named = false;
    std::uint32_t named = 0;
    if (body.ddp_header_size == UntaggedHeader::kSize - kLengthSize) {
        std::array<std::byte, UntaggedHeader::kSize> bytes{};
        std::memcpy(bytes.data() + kLengthSize, body.ddp_header.data(), body.ddp_header_size);
        const auto header = UntaggedHeader::parse(bytes);
        is_named = header.control.opcode == static_cast<std::uint8_t>(Opcode::atomic_request);
        named = header.msn;
    }
    if (!is_named && body.error != error::kUnexpectedOpcode) return false;
    for (std::uint32_t i = 0; i != reads_.size(); ++i, ++msn) {
        const std::uint32_t position = reads_[i];
        if (!is_atomic(send_queue_[position].kind) || (is_named && msn != named)) continue;
        life_.blame(position, Status::remote_resources);
        return true;
    }
    return false;
}

// ---- in -------------------------------------------------------------------------------------

bool Receiver::begin_immediate(std::span<const std::byte> bytes) {
    const auto header = UntaggedHeader::parse(bytes.first<UntaggedHeader::kSize>());
    if (!check_send_order(header)) return false;
    if (header.mo != 0) return refuse(error::kUntaggedMo);
    if (untagged_.is_active || payload_size_ != 0 || !fpdu_.control.last) {
        return refuse(error::kUnexpectedOpcode);
    }
    if (!take_receive()) return false;
    const auto body =
        ImmediateBody::parse(bytes.subspan<UntaggedHeader::kSize, ImmediateBody::kSize>());
    receive_queue_[receive_next_].immediate = body.value;
    return true;
}

void Receiver::end_immediate() {
    ++expected_send_msn_;
    ReceiveRequest& receive = receive_queue_[receive_next_];
    receive.has_immediate = true;
    receive.is_solicited = row_of(fpdu_.opcode()).solicits;
    receive.received = written_;
    written_ = 0;
    ++receive_next_;
}

bool Receiver::begin_atomic_request(std::span<const std::byte> bytes) {
    const auto header = UntaggedHeader::parse(bytes.first<UntaggedHeader::kSize>());
    ErrorCode code = check_request(header);
    const auto body =
        AtomicRequestBody::parse(bytes.subspan<UntaggedHeader::kSize, AtomicRequestBody::kSize>());
    if (code == error::kNone && !is_operation(body.operation)) code = error::kUnexpectedOpcode;
    if (code != error::kNone) return refuse(code);
    Job& job = sender_.jobs().incoming();
    job.msn = header.msn;
    job.is_atomic = true;
    job.built = 0;
    job.body = ReadRequestBody{};
    job.atomic = body;
    return true;
}

bool Receiver::begin_atomic_response(std::span<const std::byte> bytes) {
    const auto header = UntaggedHeader::parse(bytes.first<UntaggedHeader::kSize>());
    const SendRequest* const request = sender_.reads().has_opening || sender_.reads().is_empty()
                                           ? nullptr
                                           : &send_queue_[sender_.reads().front()];
    const auto body = AtomicResponseBody::parse(
        bytes.subspan<UntaggedHeader::kSize, AtomicResponseBody::kSize>());
    ErrorCode code = error::kNone;
    if (header.queue_number != kQueueAtomicResponse) {
        code = error::kUntaggedQueue;
    } else if (request == nullptr || !is_atomic(request->kind) ||
               request->progress != SendRequest::Progress::transmitted || payload_size_ != 0 ||
               !fpdu_.control.last) {
        code = error::kUnexpectedOpcode;
    } else if (header.msn != expected_atomic_msn_) {
        code = error::kUntaggedMsn;
    } else if (header.mo != 0) {
        code = error::kUntaggedMo;
    } else if (body.request_id != request->sink_stag) {
        code = error::kStreamCatastrophic;
    }
    if (code != error::kNone) return refuse(code);
    atomic_value_ = body.value;
    return true;
}

void Receiver::end_atomic_response() {
    ++expected_atomic_msn_;
    const std::uint32_t position = sender_.reads().pop();
    // In this host's byte order, wherever the caller wants it: the place need not be aligned.
    std::array<iovec, sizeof atomic_value_> pieces;
    const std::size_t count = slice_segments(send_queue_.segments(position), 0,
                                             sizeof atomic_value_, pieces.data(), pieces.size());
    const auto* from = reinterpret_cast<const std::byte*>(&atomic_value_);
    for (std::size_t i = 0; i < count; ++i) {
        std::memcpy(pieces[i].iov_base, from, pieces[i].iov_len);
        from += pieces[i].iov_len;
    }
    send_queue_[position].progress = SendRequest::Progress::done;
    life_.check_drained();
}

}  // namespace ndv::iwarp

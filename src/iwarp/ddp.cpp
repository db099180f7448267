// SPDX-License-Identifier: Apache-2.0
// Bytes of the FPDU, DDP and RDMAP headers.
#include "iwarp/ddp.hpp"

#include "base/bytes.hpp"

namespace ndv::iwarp {

namespace {

using base::load_be;
using base::store_be;

// Fields that lie one behind the other.
template <typename... Fields>
void load(const std::byte* at, Fields&... fields) {
    ((fields = load_be<Fields>(at), at += sizeof fields), ...);
}
template <typename... Fields>
void store(std::byte* at, Fields... fields) {
    ((store_be(at, fields), at += sizeof fields), ...);
}

}  // namespace

Control Control::parse(std::span<const std::byte, kSize> bytes) {
    const auto ddp = std::to_integer<unsigned>(bytes[2]);
    const auto rdmap = std::to_integer<unsigned>(bytes[3]);
    Control out;
    out.ulpdu_length = load_be<std::uint16_t>(bytes.data());
    out.tagged = (ddp & 0x80U) != 0;
    out.last = (ddp & 0x40U) != 0;
    out.ddp_version = static_cast<std::uint8_t>(ddp & 0x03U);
    out.rdmap_version = static_cast<std::uint8_t>(rdmap >> 6U);
    out.opcode = static_cast<std::uint8_t>(rdmap & 0x0FU);
    return out;
}

void Control::emit(std::span<std::byte, kSize> bytes) const {
    store_be(bytes.data(), ulpdu_length);
    const unsigned ddp = (tagged ? 0x80U : 0U) | (last ? 0x40U : 0U) | (ddp_version & 0x03U);
    const unsigned rdmap = (static_cast<unsigned>(rdmap_version & 0x03U) << 6U) | (opcode & 0x0FU);
    bytes[2] = static_cast<std::byte>(ddp);
    bytes[3] = static_cast<std::byte>(rdmap);
}

TaggedHeader TaggedHeader::parse(std::span<const std::byte, kSize> bytes) {
    TaggedHeader out;
    out.control = Control::parse(bytes.first<Control::kSize>());
    load(bytes.data() + Control::kSize, out.stag, out.to);
    return out;
}

void TaggedHeader::emit(std::span<std::byte, kSize> bytes) const {
    control.emit(bytes.first<Control::kSize>());
    store(bytes.data() + Control::kSize, stag, to);
}

UntaggedHeader UntaggedHeader::parse(std::span<const std::byte, kSize> bytes) {
    UntaggedHeader out;
    out.control = Control::parse(bytes.first<Control::kSize>());
    load(bytes.data() + Control::kSize, out.invalidate_stag, out.queue_number, out.msn, out.mo);
    return out;
}

void UntaggedHeader::emit(std::span<std::byte, kSize> bytes) const {
    control.emit(bytes.first<Control::kSize>());
    store(bytes.data() + Control::kSize, invalidate_stag, queue_number, msn, mo);
}

ReadRequestBody ReadRequestBody::parse(std::span<const std::byte, kSize> bytes) {
    ReadRequestBody out;
    load(bytes.data(), out.sink_stag, out.sink_to, out.size, out.source_stag, out.source_to);
    return out;
}

void ReadRequestBody::emit(std::span<std::byte, kSize> bytes) const {
    store(bytes.data(), sink_stag, sink_to, size, source_stag, source_to);
}

ImmediateBody ImmediateBody::parse(std::span<const std::byte, kSize> bytes) {
    ImmediateBody out;
    load(bytes.data(), out.value, out.rest);
    return out;
}

void ImmediateBody::emit(std::span<std::byte, kSize> bytes) const {
    store(bytes.data(), value, rest);
}

AtomicRequestBody AtomicRequestBody::parse(std::span<const std::byte, kSize> bytes) {
    AtomicRequestBody out;
    std::uint32_t word = 0;  // whose other bits are reserved
    load(bytes.data(), word, out.request_id, out.stag, out.to, out.operand, out.operand_mask,
         out.compare, out.compare_mask);
    out.operation = static_cast<std::uint8_t>(word & 0x0FU);
    return out;
}

void AtomicRequestBody::emit(std::span<std::byte, kSize> bytes) const {
    store(bytes.data(), static_cast<std::uint32_t>(operation & 0x0FU), request_id, stag, to,
          operand, operand_mask, compare, compare_mask);
}

AtomicResponseBody AtomicResponseBody::parse(std::span<const std::byte, kSize> bytes) {
    AtomicResponseBody out;
    load(bytes.data(), out.request_id, out.value);
    return out;
}

void AtomicResponseBody::emit(std::span<std::byte, kSize> bytes) const {
    store(bytes.data(), request_id, value);
}

}  // namespace ndv::iwarp

// SPDX-License-Identifier: Apache-2.0
// Bytes of the FPDU, DDP and RDMAP headers.
#include "iwarp/ddp.hpp"

#include "base/bytes.hpp"

namespace ndv::iwarp {

using base::load_be;
using base::store_be;

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
    out.stag = load_be<std::uint32_t>(bytes.data() + 4);
    out.to = load_be<std::uint64_t>(bytes.data() + 8);
    return out;
}

void TaggedHeader::emit(std::span<std::byte, kSize> bytes) const {
    control.emit(bytes.first<Control::kSize>());
    store_be(bytes.data() + 4, stag);
    store_be(bytes.data() + 8, to);
}

UntaggedHeader UntaggedHeader::parse(std::span<const std::byte, kSize> bytes) {
    UntaggedHeader out;
    out.control = Control::parse(bytes.first<Control::kSize>());
    out.invalidate_stag = load_be<std::uint32_t>(bytes.data() + 4);
    out.queue_number = load_be<std::uint32_t>(bytes.data() + 8);
    out.msn = load_be<std::uint32_t>(bytes.data() + 12);
    out.mo = load_be<std::uint32_t>(bytes.data() + 16);
    return out;
}

void UntaggedHeader::emit(std::span<std::byte, kSize> bytes) const {
    control.emit(bytes.first<Control::kSize>());
    store_be(bytes.data() + 4, invalidate_stag);
    store_be(bytes.data() + 8, queue_number);
    store_be(bytes.data() + 12, msn);
    store_be(bytes.data() + 16, mo);
}

ReadRequestBody ReadRequestBody::parse(std::span<const std::byte, kSize> bytes) {
    ReadRequestBody out;
    out.sink_stag = load_be<std::uint32_t>(bytes.data());
    out.sink_to = load_be<std::uint64_t>(bytes.data() + 4);
    out.size = load_be<std::uint32_t>(bytes.data() + 12);
    out.source_stag = load_be<std::uint32_t>(bytes.data() + 16);
    out.source_to = load_be<std::uint64_t>(bytes.data() + 20);
    return out;
}

void ReadRequestBody::emit(std::span<std::byte, kSize> bytes) const {
    store_be(bytes.data(), sink_stag);
    store_be(bytes.data() + 4, sink_to);
    store_be(bytes.data() + 12, size);
    store_be(bytes.data() + 16, source_stag);
    store_be(bytes.data() + 20, source_to);
}

ImmediateBody ImmediateBody::parse(std::span<const std::byte, kSize> bytes) {
    return {load_be<std::uint32_t>(bytes.data()), load_be<std::uint32_t>(bytes.data() + 4)};
}

void ImmediateBody::emit(std::span<std::byte, kSize> bytes) const {
    store_be(bytes.data(), value);
    store_be(bytes.data() + 4, rest);
}

AtomicRequestBody AtomicRequestBody::parse(std::span<const std::byte, kSize> bytes) {
    AtomicRequestBody out;
    out.operation = static_cast<std::uint8_t>(load_be<std::uint32_t>(bytes.data()) & 0x0FU);
    out.request_id = load_be<std::uint32_t>(bytes.data() + 4);
    out.stag = load_be<std::uint32_t>(bytes.data() + 8);
    out.to = load_be<std::uint64_t>(bytes.data() + 12);
    out.operand = load_be<std::uint64_t>(bytes.data() + 20);
    out.operand_mask = load_be<std::uint64_t>(bytes.data() + 28);
    out.compare = load_be<std::uint64_t>(bytes.data() + 36);
    out.compare_mask = load_be<std::uint64_t>(bytes.data() + 44);
    return out;
}

void AtomicRequestBody::emit(std::span<std::byte, kSize> bytes) const {
    store_be(bytes.data(), static_cast<std::uint32_t>(operation & 0x0FU));
    store_be(bytes.data() + 4, request_id);
    store_be(bytes.data() + 8, stag);
    store_be(bytes.data() + 12, to);
    store_be(bytes.data() + 20, operand);
    store_be(bytes.data() + 28, operand_mask);
    store_be(bytes.data() + 36, compare);
    store_be(bytes.data() + 44, compare_mask);
}

AtomicResponseBody AtomicResponseBody::parse(std::span<const std::byte, kSize> bytes) {
    return {load_be<std::uint32_t>(bytes.data()), load_be<std::uint64_t>(bytes.data() + 4)};
}

void AtomicResponseBody::emit(std::span<std::byte, kSize> bytes) const {
    store_be(bytes.data(), request_id);
    store_be(bytes.data() + 4, value);
}

}  // namespace ndv::iwarp

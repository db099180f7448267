// SPDX-License-Identifier: Apache-2.0
// pcap records: raw IP packets whose TCP headers are made from the stream positions.
#include "providers/soft/capture.hpp"

#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "base/bytes.hpp"

namespace ndv::soft {
namespace {

constexpr std::uint32_t kMagicMicroseconds = 0xA1B2C3D4;
constexpr std::uint32_t kLinkTypeRaw = 101;  // packets begin with their IP header
constexpr std::size_t kIpv4Header = 20;
constexpr std::size_t kIpv6Header = 40;
constexpr std::size_t kTcpHeader = 20;
// What one IPv4 packet carries beside its headers; a 65 480-byte FPDU fits.
constexpr std::size_t kMaxPayload = 65535 - kIpv4Header - kTcpHeader;
constexpr unsigned kFin = 0x01, kSyn = 0x02, kAck = 0x10, kPush = 0x08;

struct Side {
    core::SocketAddress address;
    std::uint32_t sequence = 1;
};

class CaptureLink final : public Link {
public:
    CaptureLink(std::unique_ptr<Link> link, std::shared_ptr<Capture> capture)
        : link_(std::move(link)), capture_(std::move(capture)) {}

    LinkResult read(const iovec* pieces, std::size_t count) override {
        const LinkResult result = link_->read(pieces, count);
        if (result.kind == LinkResult::Kind::moved) record(peer_, local_, pieces, result.size);
        if (result.kind == LinkResult::Kind::end && !std::exchange(is_ended_, true)) {
            packet(peer_, local_, kFin | kAck, {});
        }
        return result;
    }

    LinkResult write(const iovec* pieces, std::size_t count, bool end_of_record) override {
        const LinkResult result = link_->write(pieces, count, end_of_record);
        if (result.kind == LinkResult::Kind::moved) record(local_, peer_, pieces, result.size);
        return result;
    }

    void shut_write() override {
        if (!std::exchange(is_shut_, true)) packet(local_, peer_, kFin | kAck, {});
        link_->shut_write();
    }

    [[nodiscard]] int descriptor() const override { return link_->descriptor(); }

private:
    void record(Side& from, Side& to, const iovec* pieces, std::size_t size) {
        std::vector<std::byte> bytes;
        bytes.reserve(size);
        for (; bytes.size() < size; ++pieces) {
            const auto* data = static_cast<const std::byte*>(pieces->iov_base);
            const std::size_t part = std::min(pieces->iov_len, size - bytes.size());
            bytes.insert(bytes.end(), data, data + part);
        }
        std::span<const std::byte> left(bytes);
        while (!left.empty()) {
            const std::size_t part = std::min(left.size(), kMaxPayload);
            packet(from, to, kAck | kPush, left.first(part));
            left = left.subspan(part);
        }
    }

    // The addresses are known once the socket is connected, which is before the first byte.
    void learn_addresses() {
        if (local_.address.length != 0) return;
        local_.address = local_address_of(descriptor());
        peer_.address = peer_address_of(descriptor());
        local_.sequence = peer_.sequence = 0;
        packet(local_, peer_, kSyn, {});
        packet(peer_, local_, kSyn | kAck, {});
    }

    void packet(Side& from, Side& to, unsigned flags, std::span<const std::byte> payload) {
        learn_addresses();
        if (from.address.length == 0 || to.address.length == 0) return;
        std::vector<std::byte> out(kIpv6Header + kTcpHeader + payload.size());
        const std::size_t ip = put_ip(out, from, to, payload.size());
        std::byte* tcp = out.data() + ip;
        base::store_be(tcp, from.address.port());
        base::store_be(tcp + 2, to.address.port());
        base::store_be(tcp + 4, from.sequence);
        base::store_be(tcp + 8, (flags & kAck) != 0 ? to.sequence : 0U);
        tcp[12] = std::byte{(kTcpHeader / 4) << 4U};
        tcp[13] = static_cast<std::byte>(flags);
        base::store_be(tcp + 14, std::uint16_t{0xFFFF});  // window
        if (!payload.empty()) std::memcpy(tcp + kTcpHeader, payload.data(), payload.size());
        from.sequence +=
            static_cast<std::uint32_t>(payload.size()) + ((flags & (kSyn | kFin)) != 0 ? 1U : 0U);
        capture_->write(out.data(), ip + kTcpHeader + payload.size());
    }

    static std::size_t put_ip(std::vector<std::byte>& out, const Side& from, const Side& to,
                              std::size_t payload) {
        if (from.address.family() == AF_INET) {
            out[0] = std::byte{0x45};
            base::store_be(out.data() + 2,
                           static_cast<std::uint16_t>(kIpv4Header + kTcpHeader + payload));
            out[8] = std::byte{64};
            out[9] = std::byte{IPPROTO_TCP};
            const auto* source = reinterpret_cast<const sockaddr_in*>(from.address.raw());
            const auto* target = reinterpret_cast<const sockaddr_in*>(to.address.raw());
            std::memcpy(out.data() + 12, &source->sin_addr, 4);
            std::memcpy(out.data() + 16, &target->sin_addr, 4);
            return kIpv4Header;
        }
        out[0] = std::byte{0x60};
        base::store_be(out.data() + 4, static_cast<std::uint16_t>(kTcpHeader + payload));
        out[6] = std::byte{IPPROTO_TCP};
        out[7] = std::byte{64};
        const auto* source = reinterpret_cast<const sockaddr_in6*>(from.address.raw());
        const auto* target = reinterpret_cast<const sockaddr_in6*>(to.address.raw());
        std::memcpy(out.data() + 8, &source->sin6_addr, 16);
        std::memcpy(out.data() + 24, &target->sin6_addr, 16);
        return kIpv6Header;
    }

    const std::unique_ptr<Link> link_;
    const std::shared_ptr<Capture> capture_;
    Side local_;
    Side peer_;
    bool is_shut_ = false;
    bool is_ended_ = false;
};

}  // namespace

Expected<std::shared_ptr<Capture>> Capture::open(const std::string& path) {
    std::FILE* file = std::fopen(path.c_str(), "wbe");
    if (file == nullptr) {
        return fail(status_of(errno), "capture: cannot write " + path, {}, errno);
    }
    struct {
        std::uint32_t magic = kMagicMicroseconds;
        std::uint16_t major = 2;
        std::uint16_t minor = 4;
        std::uint32_t zone = 0;
        std::uint32_t accuracy = 0;
        std::uint32_t longest = 256 * 1024;
        std::uint32_t type = kLinkTypeRaw;
    } const header;
    static_cast<void>(std::fwrite(&header, sizeof header, 1, file));
    static_cast<void>(std::fflush(file));
    return std::make_shared<Capture>(file);
}

Capture::~Capture() { static_cast<void>(std::fclose(file_)); }

void Capture::write(const std::byte* packet, std::size_t size) {
    const auto since = std::chrono::system_clock::now().time_since_epoch();
    const auto us = std::chrono::duration_cast<std::chrono::microseconds>(since).count();
    const std::array<std::uint32_t, 4> header = {
        static_cast<std::uint32_t>(us / 1'000'000), static_cast<std::uint32_t>(us % 1'000'000),
        static_cast<std::uint32_t>(size), static_cast<std::uint32_t>(size)};
    const base::Lock lock(mutex_);
    static_cast<void>(std::fwrite(header.data(), sizeof header, 1, file_));
    static_cast<void>(std::fwrite(packet, size, 1, file_));
    static_cast<void>(std::fflush(file_));
}

std::unique_ptr<Link> captured(std::unique_ptr<Link> link, std::shared_ptr<Capture> capture) {
    return std::make_unique<CaptureLink>(std::move(link), std::move(capture));
}

}  // namespace ndv::soft

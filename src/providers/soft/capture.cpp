// SPDX-License-Identifier: Apache-2.0
// pcap records: raw IP packets whose TCP headers are made from the stream positions. A packet holds
// one start-up frame or one FPDU however TCP carried it, because dissectors know MPA only by a
// packet that begins with its key, and lose their place where a packet ends inside a length.
#include "providers/soft/capture.hpp"

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include "base/bytes.hpp"
#include "base/log.hpp"
#include "providers/soft/frame_sizes.hpp"

namespace ndv::soft {
namespace {

constexpr std::uint32_t kMagicMicroseconds = 0xA1B2C3D4;
constexpr std::uint32_t kLinkTypeRaw = 101;  // packets begin with their IP header
constexpr mode_t kRights = 0600;
constexpr std::size_t kIpv4Header = 20;
constexpr std::size_t kIpv6Header = 40;
constexpr std::size_t kTcpHeader = 20;
// What one IPv4 packet carries beside its headers; a 65 480-byte FPDU fits, larger ones take two.
constexpr std::size_t kMaxPayload = 65535 - kIpv4Header - kTcpHeader;
constexpr unsigned kFin = 0x01, kSyn = 0x02, kRst = 0x04, kPush = 0x08, kAck = 0x10;

// One direction of the stream.
struct Side {
    core::SocketAddress address;
    std::uint32_t sequence = 0;
    bool has_ended = false;
    FrameSizes sizes;
    std::vector<std::byte> held;  // the beginning of a frame
};

class CaptureLink final : public Link {
public:
    CaptureLink(std::unique_ptr<Link> link, std::shared_ptr<Capture> capture)
        : link_(std::move(link)), capture_(std::move(capture)) {}

    ~CaptureLink() override {
        release(local_, peer_);
        release(peer_, local_);
        if (is_claimed_) capture_->give_back(local_.address, peer_.address);
    }

    LinkResult read(const iovec* pieces, std::size_t count) override {
        const LinkResult result = link_->read(pieces, count);
        if (result.kind == LinkResult::Kind::moved) record(peer_, local_, pieces, result.size);
        if (result.kind == LinkResult::Kind::end) end(peer_, local_, kFin);
        if (result.kind == LinkResult::Kind::error) end(peer_, local_, kRst);
        return result;
    }

    LinkResult write(const iovec* pieces, std::size_t count, bool end_of_record) override {
        const LinkResult result = link_->write(pieces, count, end_of_record);
        if (result.kind == LinkResult::Kind::moved) record(local_, peer_, pieces, result.size);
        return result;
    }

    void shut_write() override {
        end(local_, peer_, kFin);
        link_->shut_write();
    }

    [[nodiscard]] LinkResult peek() const override { return link_->peek(); }
    [[nodiscard]] int descriptor() const override { return link_->descriptor(); }
    [[nodiscard]] int take_error() override { return link_->take_error(); }
    void reset_at_close() override { link_->reset_at_close(); }
    [[nodiscard]] std::size_t segment_size() const override { return link_->segment_size(); }
    [[nodiscard]] bool has_unacknowledged() const override { return link_->has_unacknowledged(); }
    void fit(const LocalBuffers& buffers) override { link_->fit(buffers); }
    [[nodiscard]] core::SocketAddress local_address() const override {
        return link_->local_address();
    }
    [[nodiscard]] core::SocketAddress peer_address() const override {
        return link_->peer_address();
    }

private:
    void record(Side& from, Side& to, const iovec* pieces, std::size_t size) {
        for (std::size_t left = size; left > 0; ++pieces) {
            const auto* data = static_cast<const std::byte*>(pieces->iov_base);
            const std::size_t part = std::min(pieces->iov_len, left);
            from.held.insert(from.held.end(), data, data + part);
            left -= part;
        }
        std::size_t at = 0;
        const std::span<const std::byte> held(from.held);
        while (const std::size_t frame = from.sizes.size_of(held.subspan(at))) {
            if (frame > held.size() - at) break;
            packets(from, to, held.subspan(at, frame));
            from.sizes.next();
            at += frame;
        }
        from.held.erase(from.held.begin(), from.held.begin() + static_cast<std::ptrdiff_t>(at));
    }

    // What is left of a frame that never became whole.
    void release(Side& from, Side& to) { packets(from, to, std::exchange(from.held, {})); }

    void end(Side& from, Side& to, unsigned flag) {
        if (std::exchange(from.has_ended, true)) return;
        release(from, to);
        packet(from, to, flag | kAck, {});
    }

    void packets(Side& from, Side& to, std::span<const std::byte> bytes) {
        while (!bytes.empty()) {
            const std::size_t part = std::min(bytes.size(), kMaxPayload);
            packet(from, to, kAck | kPush, bytes.first(part));
            bytes = bytes.subspan(part);
        }
    }

    // The addresses are known once the socket is connected, which is before the first byte.
    void begin() {
        if (std::exchange(has_begun_, true)) return;
        local_.address = link_->local_address();
        peer_.address = link_->peer_address();
        if (local_.address.length == 0 || peer_.address.length == 0) return;
        is_claimed_ = capture_->claim(local_.address, peer_.address);
        packet(local_, peer_, kSyn, {});
        packet(peer_, local_, kSyn | kAck, {});
    }

    void packet(Side& from, Side& to, unsigned flags, std::span<const std::byte> payload) {
        begin();
        if (!is_claimed_) return;
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
    bool has_begun_ = false;
    bool is_claimed_ = false;
};

std::string key_of(const core::SocketAddress& local, const core::SocketAddress& peer) {
    return local.text() + ' ' + peer.text();
}

}  // namespace

Expected<std::shared_ptr<Capture>> Capture::open(const std::string& path) {
    // For its owner alone: it holds payload. A file that was there, which others could read, too.
    const int made = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, kRights);
    std::FILE* const file = made < 0 ? nullptr : ::fdopen(made, "wb");
    if (file == nullptr) {
        const int error = errno;
        if (made >= 0) ::close(made);
        return fail(status_of(error), "capture: cannot write " + path, {}, error);
    }
    struct stat found {};
    if (::fstat(made, &found) == 0 && S_ISREG(found.st_mode)) {
        static_cast<void>(::fchmod(made, kRights));
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
    if (std::fwrite(&header, sizeof header, 1, file) != 1 || std::fflush(file) != 0) {
        const int error = errno;
        static_cast<void>(std::fclose(file));
        return fail(status_of(error), "capture: cannot write " + path, {}, error);
    }
    return std::make_shared<Capture>(file, path);
}

Capture::~Capture() { static_cast<void>(std::fclose(file_)); }

bool Capture::claim(const core::SocketAddress& local, const core::SocketAddress& peer) {
    const base::Lock lock(mutex_);
    return !claimed_.contains(key_of(peer, local)) && claimed_.insert(key_of(local, peer)).second;
}

void Capture::give_back(const core::SocketAddress& local, const core::SocketAddress& peer) {
    const base::Lock lock(mutex_);
    claimed_.erase(key_of(local, peer));
}

void Capture::write(const std::byte* packet, std::size_t size) {
    const auto since = std::chrono::system_clock::now().time_since_epoch();
    const auto us = std::chrono::duration_cast<std::chrono::microseconds>(since).count();
    const std::array<std::uint32_t, 4> header = {
        static_cast<std::uint32_t>(us / 1'000'000), static_cast<std::uint32_t>(us % 1'000'000),
        static_cast<std::uint32_t>(size), static_cast<std::uint32_t>(size)};
    const base::Lock lock(mutex_);
    // relaxed, as below: see lost().
    if (lost_.load(std::memory_order_relaxed) == 0) {
        const long end = std::ftell(file_);
        const int error = std::fwrite(header.data(), sizeof header, 1, file_) == 1 &&
                                  std::fwrite(packet, size, 1, file_) == 1 &&
                                  std::fflush(file_) == 0
                              ? 0
                              : errno;
        if (error == 0) return;
        // What is left in the buffer would follow the packets that came before.
        static_cast<void>(::ftruncate(::fileno(file_), end));
        base::log(base::LogLevel::warning, "capture",
                  "the capture " + path_ + " ends here: " + std::generic_category().message(error) +
                      "; connections go on without it");
    }
    lost_.fetch_add(1, std::memory_order_relaxed);
}

std::unique_ptr<Link> captured(std::unique_ptr<Link> link, std::shared_ptr<Capture> capture) {
    return std::make_unique<CaptureLink>(std::move(link), std::move(capture));
}

}  // namespace ndv::soft

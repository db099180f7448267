// SPDX-License-Identifier: Apache-2.0
// How bytes pass, and what is done to them.
#include "providers/soft/faulty_link.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <new>
#include <utility>

#include "iwarp/ddp.hpp"

namespace ndv::soft {
namespace {

constexpr std::size_t kPiece = 64 * 1024;
// What is on its way, beside what the two sockets hold.
constexpr std::size_t kMostQueued = 256 * 1024;
// Pieces that one call moves each way; then others of the progress thread have their turn.
constexpr int kRounds = 16;

// Zero-length Writes, which connections send on their own, when their time has come.
bool is_empty_write(std::span<const std::byte> frame) {
    const auto control = iwarp::Control::parse(frame.first<iwarp::Control::kSize>());
    return control.tagged && control.opcode == static_cast<std::uint8_t>(iwarp::Opcode::write) &&
           control.ulpdu_length == iwarp::TaggedHeader::kSize - iwarp::kLengthSize;
}

std::mt19937_64 generator(std::uint64_t seed, bool is_active, std::uint64_t number) {
    std::seed_seq sequence{static_cast<std::uint32_t>(seed),
                           static_cast<std::uint32_t>(seed >> 32U), is_active ? 1U : 2U,
                           static_cast<std::uint32_t>(number)};
    return std::mt19937_64(sequence);
}

}  // namespace

// What a passage has in the progress thread's set, for each of its ends.
class Tap final : public Member {
public:
    explicit Tap(std::weak_ptr<Passage> passage) : passage_(std::move(passage)) {}
    void on_ready() override {
        if (const auto passage = passage_.lock()) passage->move();
    }
    void on_deadline() override { on_ready(); }
    [[nodiscard]] std::uint32_t wanted() const override {
        return wanted_.load(std::memory_order_acquire);  // pairs with want()
    }
    void want(std::uint32_t events) { wanted_.store(events, std::memory_order_release); }

    bool is_watched = false;  // guarded by the passage's mutex

private:
    const std::weak_ptr<Passage> passage_;
    std::atomic<std::uint32_t> wanted_{0};
};

Passage::Passage(std::unique_ptr<Link> wire, std::shared_ptr<core::Faults> faults,
                 std::shared_ptr<Progress> progress, bool is_active)
    : faults_(std::move(faults)),
      progress_(std::move(progress)),
      number_(faults_->next_number(is_active)),
      name_("connection " + std::to_string(number_) +
            (is_active ? ", active side" : ", passive side")),
      kills_(faults_->of_links().kills),
      wire_(std::move(wire)),
      random_(generator(faults_->seed(), is_active, number_)) {}

base::Descriptor Passage::open() {
    faults_->on_change(weak_from_this(), [this] { move(); });
    const base::Lock lock(mutex_);
    std::array<int, 2> ends{-1, -1};
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()) != 0) {
        wire_.reset();
        return {};
    }
    base::Descriptor near(ends[0]);
    far_ = base::Descriptor(ends[1]);
    far_tap_ = std::make_shared<Tap>(weak_from_this());
    wire_tap_ = std::make_shared<Tap>(weak_from_this());
    local_ = wire_->local_address();
    peer_ = wire_->peer_address();
    watch(is_stalled());
    return near;
}

void Passage::move() {
    const base::Lock lock(mutex_);
    if (!wire_) return;
    const core::LinkFaults faults = faults_->of_links();
    try {
        if (!faults.is_stalled) pass(faults);
        if (faults.kills != kills_) fail(ECONNRESET, true);
        watch(faults.is_stalled);
    } catch (const std::bad_alloc&) {
        fail(ENOMEM, true);  // a part of it may be lost
    }
}

void Passage::reset() {
    const base::Lock lock(mutex_);
    const core::LinkFaults faults = faults_->of_links();
    if (wire_ && !faults.is_stalled) pass(faults);
    fail(ECONNRESET, true);
}

void Passage::close(bool resets) {
    const base::Lock lock(mutex_);
    const core::LinkFaults faults = faults_->of_links();
    if (wire_ && !resets && !faults.is_stalled) {
        take_out(faults);
        send_out();
    }
    fail(0, resets);
}

void Passage::pass(const core::LinkFaults& faults) {
    take_out(faults);
    send_out();
    take_in();
}

// ---- out ------------------------------------------------------------------------------------

void Passage::take_out(const core::LinkFaults& faults) {
    for (int i = 0; i < kRounds && queued_ < kMostQueued && !has_end_ && !is_cut_; ++i) {
        const std::size_t before = begun_.size();
        begun_.resize(before + kPiece);
        const ssize_t moved = ::recv(far_.get(), begun_.data() + before, kPiece, MSG_DONTWAIT);
        begun_.resize(before + static_cast<std::size_t>(std::max<ssize_t>(moved, 0)));
        if (moved < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (moved <= 0) {
            has_end_ = true;
            put(begun_);  // of a frame that will never be whole
            begun_.clear();
        } else if (lost_ != 0) {
            begun_.clear();
        } else {
            sort(faults);
        }
    }
}

void Passage::sort(const core::LinkFaults& faults) {
    if (faults.cut_call != cut_call_) {
        cut_call_ = faults.cut_call;
        bytes_ = 0;
    }
    std::size_t done = 0;
    while (done < begun_.size()) {
        const std::span<std::byte> rest = std::span(begun_).subspan(done);
        if (frame_left_ == 0 && !begin_frame(faults, rest)) break;
        std::span<std::byte> part = rest.first(std::min(frame_left_, rest.size()));
        if (flip_at_ && *flip_at_ / 8 < part.size()) {
            part[*flip_at_ / 8] ^= std::byte{1} << (*flip_at_ % 8);
            flip_at_.reset();
        } else if (flip_at_) {
            *flip_at_ -= 8 * part.size();
        }
        if (is_counted_ && faults.cut_after && bytes_ + part.size() >= *faults.cut_after &&
            faults_->takes_cut(cut_call_)) {
            faults_->note("cut: " + name_ + ", behind " + std::to_string(*faults.cut_after) +
                          " bytes");
            is_cut_ = true;
            put(part.first(*faults.cut_after - bytes_));
            break;
        }
        if (is_counted_) bytes_ += part.size();
        put(part);
        frame_left_ -= part.size();
        if (frame_left_ == 0) sizes_.next();
        done += part.size();
    }
    begun_.erase(begun_.begin(), begun_.begin() + static_cast<std::ptrdiff_t>(done));
}

// False: too few bytes to know it by.
bool Passage::begin_frame(const core::LinkFaults& faults, std::span<const std::byte> bytes) {
    if (sizes_.is_fpdu() && bytes.size() < iwarp::Control::kSize) return false;
    frame_left_ = sizes_.size_of(bytes);
    if (frame_left_ == 0) return false;
    is_counted_ = !sizes_.is_fpdu() || !is_empty_write(bytes);
    Time wait = faults.delay;
    if (is_counted_ && faults.jitter > Time{}) {
        wait += Time(random_() % static_cast<std::uint64_t>(faults.jitter.count()));
    }
    due_ = std::max(due_, now() + wait);
    if (faults.corrupt_call != corrupt_call_) {
        corrupt_call_ = faults.corrupt_call;
        frames_ = 0;
    }
    if (faults.corrupt_every == 0 || !sizes_.is_fpdu() || !sizes_.has_crc() || !is_counted_ ||
        ++frames_ % faults.corrupt_every != 0) {
        return true;
    }
    // Behind the length, which says where the sum is.
    constexpr std::size_t kLengthBits = 8 * iwarp::kLengthSize;
    flip_at_ = kLengthBits + random_() % (8 * frame_left_ - kLengthBits);
    faults_->note("corrupt: " + name_ + ", frame " + std::to_string(frames_) + ", bit " +
                  std::to_string(*flip_at_));
    return true;
}

void Passage::put(std::span<const std::byte> bytes) {
    if (bytes.empty()) return;
    queue_.push_back({due_, {bytes.begin(), bytes.end()}, 0});
    queued_ += bytes.size();
}

void Passage::send_out() {
    is_full_ = false;
    const Time at = now();
    while (!queue_.empty() && queue_.front().due <= at) {
        Part& part = queue_.front();
        const iovec piece{part.bytes.data() + part.sent, part.bytes.size() - part.sent};
        const LinkResult result = wire_->write(&piece, 1, false);
        if (result.kind == LinkResult::Kind::would_block) {
            is_full_ = true;
            return;
        }
        if (result.kind != LinkResult::Kind::moved) {
            // What the peer said before may still wait, and the end does.
            lost_ = result.os_error != 0 ? result.os_error : EPIPE;
            queue_.clear();
            queued_ = 0;
            return;
        }
        part.sent += result.size;
        queued_ -= result.size;
        if (part.sent == part.bytes.size()) queue_.pop_front();
    }
    if (!queue_.empty()) {
        progress_->set_deadline(far_tap_, queue_.front().due);
    } else if (is_cut_) {
        fail(ECONNRESET, true);
    } else if (has_end_ && !std::exchange(has_shut_, true)) {
        wire_->shut_write();
    }
}

// ---- in -------------------------------------------------------------------------------------

void Passage::take_in() {
    for (int i = 0; i < kRounds && wire_; ++i) {
        if (!in_.empty()) {
            const ssize_t moved =
                ::send(far_.get(), in_.data(), in_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
            if (moved < 0 && errno != EPIPE) return;  // full
            const std::size_t gone = moved < 0 ? in_.size() : static_cast<std::size_t>(moved);
            in_.erase(in_.begin(), in_.begin() + static_cast<std::ptrdiff_t>(gone));
            if (!in_.empty()) return;
        }
        if (has_ended_) return;
        in_.resize(kPiece);
        const iovec piece{in_.data(), in_.size()};
        const LinkResult result = wire_->read(&piece, 1);
        in_.resize(result.kind == LinkResult::Kind::moved ? result.size : 0);
        switch (result.kind) {
            case LinkResult::Kind::moved:
                break;
            case LinkResult::Kind::would_block:
                return;
            case LinkResult::Kind::end:
                has_ended_ = true;
                if (lost_ != 0) {
                    fail(lost_, false);
                } else {
                    ::shutdown(far_.get(), SHUT_WR);
                }
                return;
            case LinkResult::Kind::error:
                fail(result.os_error, false);
                return;
        }
    }
}

// ---- the end --------------------------------------------------------------------------------

void Passage::fail(int os_error, bool resets) {
    if (!wire_) return;
    os_error_.store(os_error, std::memory_order_release);  // pairs with os_error()
    static_cast<void>(watch(*far_tap_, far_.get(), 0));
    static_cast<void>(watch(*wire_tap_, wire_->descriptor(), 0));
    progress_->clear_deadline(*far_tap_);
    if (resets) wire_->reset_at_close();
    wire_.reset();
    far_.reset();
    queue_.clear();
    queued_ = 0;
}

// What has its end, or is held, shows in a set without being asked for: it leaves the set.
void Passage::watch(bool is_stalled) {
    if (!wire_) return;
    const bool takes = queued_ < kMostQueued && !has_end_ && !is_cut_;
    const bool reads = in_.empty() && !has_ended_;
    const bool is_watched =
        watch(*far_tap_, far_.get(),
              is_stalled ? 0 : (takes ? EPOLLIN : 0U) | (in_.empty() ? 0U : EPOLLOUT)) &&
        watch(*wire_tap_, wire_->descriptor(),
              is_stalled ? 0 : (reads ? EPOLLIN : 0U) | (is_full_ ? EPOLLOUT : 0U));
    if (!is_watched) fail(ENOMEM, true);
}

bool Passage::watch(Tap& tap, int descriptor, std::uint32_t events) {
    tap.want(events);
    if (events == 0) {
        if (std::exchange(tap.is_watched, false)) progress_->remove(tap, descriptor);
        return true;
    }
    if (tap.is_watched) {
        progress_->arm(tap);
        return true;
    }
    const auto& shared = &tap == far_tap_.get() ? far_tap_ : wire_tap_;
    return tap.is_watched = progress_->add(shared, descriptor).has_value();
}

// ---- what its user asks ---------------------------------------------------------------------

bool Passage::has_unacknowledged() const {
    const base::Lock lock(mutex_);
    return wire_ && (queued_ > 0 || wire_->has_unacknowledged());
}

std::size_t Passage::segment_size() const {
    const base::Lock lock(mutex_);
    return wire_ ? wire_->segment_size() : std::numeric_limits<std::size_t>::max();
}

void Passage::fit(const LocalBuffers& buffers) {
    const base::Lock lock(mutex_);
    if (wire_) wire_->fit(buffers);
}

core::SocketAddress Passage::local_address() const {
    const base::Lock lock(mutex_);
    return local_;
}

core::SocketAddress Passage::peer_address() const {
    const base::Lock lock(mutex_);
    return peer_;
}

FaultyLink::FaultyLink(std::unique_ptr<Link> wire, std::shared_ptr<core::Faults> faults,
                       std::shared_ptr<Progress> progress, bool is_active)
    : passage_(std::make_shared<Passage>(std::move(wire), std::move(faults), std::move(progress),
                                         is_active)),
      end_(passage_->open()) {}

FaultyLink::~FaultyLink() {
    // In a forked child the thread that had a mutex may be gone.
    if (made_in_ == base::fork_generation()) passage_->close(resets_);
}

LinkResult FaultyLink::receive(const iovec* pieces, std::size_t count, int flags) const {
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(pieces);
    message.msg_iovlen = count;
    ssize_t moved = 0;
    do {
        moved = ::recvmsg(end_.get(), &message, flags | MSG_DONTWAIT);
    } while (moved < 0 && errno == EINTR);
    if (moved > 0) return {LinkResult::Kind::moved, static_cast<std::size_t>(moved), 0};
    if (moved < 0 && errno == EAGAIN) return {LinkResult::Kind::would_block, 0, 0};
    if (const int os_error = passage_->os_error()) return {LinkResult::Kind::error, 0, os_error};
    if (moved < 0) return {LinkResult::Kind::error, 0, errno};
    return {LinkResult::Kind::end, 0, 0};
}

LinkResult FaultyLink::read(const iovec* pieces, std::size_t count) {
    return receive(pieces, count, 0);
}

LinkResult FaultyLink::peek() const {
    std::byte byte;
    const iovec piece{&byte, 1};
    return receive(&piece, 1, MSG_PEEK);
}

LinkResult FaultyLink::write(const iovec* pieces, std::size_t count, bool /*end_of_record*/) {
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(pieces);
    message.msg_iovlen = count;
    ssize_t moved = 0;
    do {
        moved = ::sendmsg(end_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (moved < 0 && errno == EINTR);
    if (moved >= 0) return {LinkResult::Kind::moved, static_cast<std::size_t>(moved), 0};
    if (errno == EAGAIN) return {LinkResult::Kind::would_block, 0, 0};
    const int os_error = passage_->os_error();
    return {LinkResult::Kind::error, 0, os_error != 0 ? os_error : errno};
}

void FaultyLink::shut_write() { ::shutdown(end_.get(), SHUT_WR); }

}  // namespace ndv::soft

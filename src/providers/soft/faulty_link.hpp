// SPDX-License-Identifier: Apache-2.0
// The link of an adapter with faults. Its user has one end of a socket pair; a passage between the
// other end and the stream's own link moves the bytes and does to them what the program asked for
// (core/faults.hpp). So what is held back, or was cut, looks to the user as on a socket.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "base/descriptor.hpp"
#include "base/mutex.hpp"
#include "core/faults.hpp"
#include "providers/soft/frame_sizes.hpp"
#include "providers/soft/link.hpp"
#include "providers/soft/progress.hpp"

namespace ndv::soft {

class Tap;

// Any thread moves bytes, without waiting; the progress thread does when there are some, and when
// their time has come. What goes out is cut, delayed and corrupted here; what comes in is as the
// peer's side sent it.
class Passage : public std::enable_shared_from_this<Passage> {
public:
    Passage(std::unique_ptr<Link> wire, std::shared_ptr<core::Faults> faults,
            std::shared_ptr<Progress> progress, bool is_active);
    Passage(const Passage&) = delete;
    Passage& operator=(const Passage&) = delete;
    ~Passage() = default;

    // Behind the constructor. Its user's end; no descriptor: the system has none.
    [[nodiscard]] base::Descriptor open();
    void move();
    // What was sent so far goes out, and then the stream is reset, at both ends.
    void reset();
    // The user is gone.
    void close(bool resets);

    // What broke the stream, or 0.
    [[nodiscard]] int os_error() const {
        return os_error_.load(std::memory_order_acquire);  // pairs with fail()
    }
    [[nodiscard]] bool is_stalled() const { return faults_->of_links().is_stalled; }
    [[nodiscard]] bool has_unacknowledged() const;
    [[nodiscard]] std::size_t segment_size() const;
    void fit(const LocalBuffers& buffers);
    [[nodiscard]] core::SocketAddress local_address() const;
    [[nodiscard]] core::SocketAddress peer_address() const;

private:
    // A part of a frame on its way.
    struct Part {
        Time due{};
        std::vector<std::byte> bytes;
        std::size_t sent = 0;
    };

    void pass(const core::LinkFaults& faults) NDV_REQUIRES(mutex_);
    void take_out(const core::LinkFaults& faults) NDV_REQUIRES(mutex_);
    void sort(const core::LinkFaults& faults) NDV_REQUIRES(mutex_);
    [[nodiscard]] bool begin_frame(const core::LinkFaults& faults, std::span<const std::byte> bytes)
        NDV_REQUIRES(mutex_);
    void put(std::span<const std::byte> bytes) NDV_REQUIRES(mutex_);
    void send_out() NDV_REQUIRES(mutex_);
    void take_in() NDV_REQUIRES(mutex_);
    void fail(int os_error, bool resets) NDV_REQUIRES(mutex_);
    void watch(bool is_stalled) NDV_REQUIRES(mutex_);
    [[nodiscard]] bool watch(Tap& tap, int descriptor, std::uint32_t events) NDV_REQUIRES(mutex_);

    const std::shared_ptr<core::Faults> faults_;
    const std::shared_ptr<Progress> progress_;
    const std::uint64_t number_;
    const std::string name_;
    const std::uint64_t kills_;  // before it was made
    std::atomic<int> os_error_{0};

    mutable base::Mutex mutex_;
    std::unique_ptr<Link> wire_ NDV_GUARDED_BY(mutex_);  // null: it is over
    base::Descriptor far_ NDV_GUARDED_BY(mutex_);        // the other end of the user's
    std::shared_ptr<Tap> far_tap_ NDV_GUARDED_BY(mutex_);
    std::shared_ptr<Tap> wire_tap_ NDV_GUARDED_BY(mutex_);
    core::SocketAddress local_ NDV_GUARDED_BY(mutex_);
    core::SocketAddress peer_ NDV_GUARDED_BY(mutex_);
    std::mt19937_64 random_ NDV_GUARDED_BY(mutex_);

    // Out.
    FrameSizes sizes_ NDV_GUARDED_BY(mutex_);
    std::vector<std::byte> begun_ NDV_GUARDED_BY(mutex_);  // of a frame whose size is not known
    std::size_t frame_left_ NDV_GUARDED_BY(mutex_) = 0;    // of the frame in progress
    bool is_counted_ NDV_GUARDED_BY(mutex_) = true;
    Time due_ NDV_GUARDED_BY(mutex_){};
    std::optional<std::size_t> flip_at_ NDV_GUARDED_BY(mutex_);  // a bit of what is left of it
    std::uint64_t frames_ NDV_GUARDED_BY(mutex_) = 0;
    std::uint64_t corrupt_call_ NDV_GUARDED_BY(mutex_) = 0;
    std::uint64_t bytes_ NDV_GUARDED_BY(mutex_) = 0;
    std::uint64_t cut_call_ NDV_GUARDED_BY(mutex_) = 0;
    std::deque<Part> queue_ NDV_GUARDED_BY(mutex_);
    std::size_t queued_ NDV_GUARDED_BY(mutex_) = 0;
    bool is_cut_ NDV_GUARDED_BY(mutex_) = false;   // behind what is in the queue
    bool has_end_ NDV_GUARDED_BY(mutex_) = false;  // the user has shut its half ...
    bool has_shut_ NDV_GUARDED_BY(mutex_) = false;
    bool is_full_ NDV_GUARDED_BY(mutex_) = false;  // the wire takes no more
    int lost_ NDV_GUARDED_BY(mutex_) = 0;          // why nothing goes out any more

    // In.
    std::vector<std::byte> in_ NDV_GUARDED_BY(mutex_);
    bool has_ended_ NDV_GUARDED_BY(mutex_) = false;  // the peer has
};

class FaultyLink final : public Link {
public:
    FaultyLink(std::unique_ptr<Link> wire, std::shared_ptr<core::Faults> faults,
               std::shared_ptr<Progress> progress, bool is_active);
    ~FaultyLink() override;

    [[nodiscard]] const std::shared_ptr<Passage>& passage() const { return passage_; }

    [[nodiscard]] LinkResult read(const iovec* pieces, std::size_t count) override;
    [[nodiscard]] LinkResult write(const iovec* pieces, std::size_t count,
                                   bool end_of_record) override;
    [[nodiscard]] LinkResult peek() const override;
    void shut_write() override;
    [[nodiscard]] int descriptor() const override { return end_.get(); }
    [[nodiscard]] int take_error() override { return passage_->os_error(); }
    void reset_at_close() override { resets_ = true; }
    [[nodiscard]] bool is_stalled() const override { return passage_->is_stalled(); }
    [[nodiscard]] std::size_t segment_size() const override { return passage_->segment_size(); }
    [[nodiscard]] bool has_unacknowledged() const override {
        return passage_->has_unacknowledged();
    }
    void fit(const LocalBuffers& buffers) override { passage_->fit(buffers); }
    [[nodiscard]] core::SocketAddress local_address() const override {
        return passage_->local_address();
    }
    [[nodiscard]] core::SocketAddress peer_address() const override {
        return passage_->peer_address();
    }

private:
    [[nodiscard]] LinkResult receive(const iovec* pieces, std::size_t count, int flags) const;

    const std::shared_ptr<Passage> passage_;
    const base::Descriptor end_;
    const unsigned made_in_ = base::fork_generation();
    bool resets_ = false;
};

}  // namespace ndv::soft

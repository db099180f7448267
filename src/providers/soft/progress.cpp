// SPDX-License-Identifier: Apache-2.0
// Lingering: an end of stream that destroys no message that is still on its way, and memory that
// outlives its end for as long as a peer has it in hand.
#include "providers/soft/progress.hpp"

#include <sys/epoll.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <new>
#include <utility>
#include <vector>

namespace ndv::soft {
namespace {

constexpr Time kLingerTime = std::chrono::seconds(5);
constexpr Time kLookTime = std::chrono::milliseconds(10);
constexpr std::size_t kMostLingering = 1024;
// Of the process's descriptors. Those who were connected may take more, because their last message
// may still be under way, and because a listener that has none left takes theirs.
constexpr std::size_t kStrangerPart = 8;
constexpr std::size_t kKnownPart = 2;

}  // namespace

std::size_t part_of_descriptors(std::size_t divisor, std::size_t most) {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return most;
    return std::clamp<std::size_t>(static_cast<std::size_t>(limit.rlim_cur) / divisor, 1, most);
}

class Lingerer final : public Member {
public:
    Lingerer(Progress& progress, std::unique_ptr<Link> link, Progress::Peer peer)
        : progress_(progress), peer_(peer), link_(std::move(link)) {}

    [[nodiscard]] int descriptor() const { return link_->descriptor(); }
    [[nodiscard]] std::size_t kind() const { return static_cast<std::size_t>(peer_); }
    [[nodiscard]] bool is_stalled() const { return link_->is_stalled(); }

    std::uint32_t wanted() const override { return EPOLLIN; }
    void on_ready() override {
        std::array<std::byte, 16384> dropped;
        const iovec piece{dropped.data(), dropped.size()};
        // Bounded, so that a peer that floods cannot keep the thread here.
        for (int i = 0; i < 64; ++i) {
            const LinkResult result = link_->read(&piece, 1);
            if (result.kind == LinkResult::Kind::would_block) return;
            if (result.kind != LinkResult::Kind::moved) {
                progress_.let_go(*this);
                return;
            }
        }
    }
    void on_deadline() override { progress_.let_go(*this); }

private:
    Progress& progress_;
    const Progress::Peer peer_;
    const std::unique_ptr<Link> link_;  // closed with the last reference
};

// The caller or the progress thread holds a reference.
void Progress::let_go(Lingerer& lingerer) {
    remove(lingerer, lingerer.descriptor());
    clear_deadline(lingerer);
    std::shared_ptr<Lingerer> self;
    const base::Lock lock(lingering_mutex_);
    Lingerers& others = lingering_[lingerer.kind()];
    const auto found = others.find(lingerer.id());
    if (found == others.end()) return;
    self = std::move(found->second);
    others.erase(found);
    lingered_.notify_all();
}

void Progress::linger(std::unique_ptr<Link> link, Peer peer) {
    std::shared_ptr<Lingerer> lingerer;
    try {
        lingerer = std::make_shared<Lingerer>(*this, std::move(link), peer);
        std::shared_ptr<Lingerer> oldest;
        {
            const base::Lock lock(lingering_mutex_);
            if (takes_no_more_) return;
            Lingerers& others = lingering_[lingerer->kind()];
            const std::size_t part = peer == Peer::known ? kKnownPart : kStrangerPart;
            if (others.size() >= part_of_descriptors(part, kMostLingering)) {
                oldest = others.begin()->second;
            }
            others[lingerer->id()] = lingerer;
        }
        if (oldest) let_go(*oldest);
        set_deadline(lingerer, now() + kLingerTime);
        if (add(lingerer, lingerer->descriptor())) return;
    } catch (const std::bad_alloc&) {
        // It closes without: the last message may be lost, the process is not.
    }
    if (lingerer) let_go(*lingerer);
}

bool Progress::drop_oldest(Peer peer) {
    std::shared_ptr<Lingerer> oldest;
    {
        const base::Lock lock(lingering_mutex_);
        const Lingerers& those = lingering_[static_cast<std::size_t>(peer)];
        if (those.empty()) return false;
        oldest = those.begin()->second;
    }
    let_go(*oldest);
    return true;
}

std::size_t Progress::lingering() const {
    const base::Lock lock(lingering_mutex_);
    return lingering_[0].size() + lingering_[1].size();
}

class Progress::Looks final : public Member {
public:
    explicit Looks(Progress& progress) : progress_(progress) {}
    void on_deadline() override { progress_.look(); }

private:
    Progress& progress_;
};

void Progress::keep(std::shared_ptr<Remnant> remnant) {
    const base::Lock lock(lingering_mutex_);
    if (!looks_) looks_ = std::make_shared<Looks>(*this);
    set_deadline(looks_, now() + kLookTime);
    kept_.push_back(std::move(remnant));
}

std::size_t Progress::kept() const {
    const base::Lock lock(lingering_mutex_);
    return kept_.size();
}

void Progress::note_waiting(bool waits) {
    const base::Lock lock(lingering_mutex_);
    if (waits) {
        ++waiting_;
    } else if (--waiting_ == 0) {
        lingered_.notify_all();
    }
}

// Without the mutex, which the end of one may need to leave another.
void Progress::look() {
    std::vector<std::shared_ptr<Remnant>> ended;
    {
        const base::Lock lock(lingering_mutex_);
        set_deadline(looks_, now() + kLookTime);
        ended = kept_;
    }
    std::erase_if(ended, [](const auto& one) { return !one->end(); });
    const base::Lock lock(lingering_mutex_);
    for (const auto& one : ended) std::erase(kept_, one);
    if (!kept_.empty()) return;
    clear_deadline(*looks_);
    lingered_.notify_all();
}

void Progress::stop() {
    std::vector<std::shared_ptr<Lingerer>> stalled;
    {
        const base::Lock lock(lingering_mutex_);
        for (const Lingerers& those : lingering_) {
            for (const auto& [id, lingerer] : those) {
                if (lingerer->is_stalled()) stalled.push_back(lingerer);
            }
        }
    }
    for (const auto& lingerer : stalled) let_go(*lingerer);
    {
        base::UniqueLock lock(lingering_mutex_);
        const auto until = std::chrono::steady_clock::now() + kLingerTime;
        while (!takes_no_more_ && (!kept_.empty() || waiting_ > 0) &&
               lingered_.wait_until(lock.native(), until) == std::cv_status::no_timeout) {
        }
        // Bounded by kLingerTime: the progress thread empties the lists.
        while (!lingering_[0].empty() || !lingering_[1].empty()) lingered_.wait(lock.native());
        takes_no_more_ = true;
    }
    core::Progress::stop();
}

}  // namespace ndv::soft

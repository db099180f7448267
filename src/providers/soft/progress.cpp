// SPDX-License-Identifier: Apache-2.0
// Lingering: an end of stream that destroys no message that is still on its way.
#include "providers/soft/progress.hpp"

#include <sys/epoll.h>

#include <array>
#include <utility>

namespace ndv::soft {
namespace {

constexpr Time kLingerTime = std::chrono::seconds(5);

}  // namespace

class Lingerer final : public Member {
public:
    Lingerer(Progress& progress, std::unique_ptr<Link> link)
        : progress_(progress), link_(std::move(link)) {}

    [[nodiscard]] int descriptor() const { return link_->descriptor(); }

    std::uint32_t wanted() const override { return EPOLLIN; }
    void on_ready() override {
        std::array<std::byte, 16384> dropped;
        const iovec piece{dropped.data(), dropped.size()};
        // Bounded, so that a peer that floods cannot keep the thread here.
        for (int i = 0; i < 64; ++i) {
            const LinkResult result = link_->read(&piece, 1);
            if (result.kind == LinkResult::Kind::would_block) return;
            if (result.kind != LinkResult::Kind::moved) {
                finish();
                return;
            }
        }
    }
    void on_deadline() override { finish(); }

private:
    void finish() {
        progress_.remove(*this, descriptor());
        progress_.clear_deadline(*this);
        std::shared_ptr<Member> self;
        const base::Lock lock(progress_.lingering_mutex_);
        const auto found = progress_.lingering_.find(id());
        if (found == progress_.lingering_.end()) return;
        self = std::move(found->second);
        progress_.lingering_.erase(found);
        progress_.lingered_.notify_all();
    }

    Progress& progress_;
    std::unique_ptr<Link> link_;
};

void Progress::linger(std::unique_ptr<Link> link) {
    const auto lingerer = std::make_shared<Lingerer>(*this, std::move(link));
    {
        const base::Lock lock(lingering_mutex_);
        if (takes_no_more_) return;
        lingering_[lingerer->id()] = lingerer;
    }
    if (!add(lingerer, lingerer->descriptor())) {
        const base::Lock lock(lingering_mutex_);
        lingering_.erase(lingerer->id());
        return;
    }
    set_deadline(lingerer, now() + kLingerTime);
}

void Progress::stop() {
    {
        base::UniqueLock lock(lingering_mutex_);
        // Bounded by kLingerTime: the progress thread empties the list.
        while (!lingering_.empty()) lingered_.wait(lock.native());
        takes_no_more_ = true;
    }
    core::Progress::stop();
}

}  // namespace ndv::soft

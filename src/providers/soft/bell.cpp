// SPDX-License-Identifier: Apache-2.0
// Ringing a bell, and the progress thread over one.
#include "providers/soft/bell.hpp"

#include <sys/epoll.h>
#include <unistd.h>

#include <cstdint>
#include <utility>

#include "providers/soft/queue_pair.hpp"

namespace ndv::soft {

Bell::Bell(std::shared_ptr<Meeting> meeting, bool is_active, std::weak_ptr<QueuePair> qp)
    : meeting_(std::move(meeting)),
      is_active_(is_active),
      qp_(std::move(qp)),
      line_(meeting_->segment(), is_active) {}

void Bell::ring(int descriptor) {
    const std::uint64_t one = 1;
    static_cast<void>(!::write(descriptor, &one, sizeof one));
}

void Bell::on_ready() {
    std::uint64_t drained = 0;
    static_cast<void>(!::read(descriptor(), &drained, sizeof drained));
    if (const auto qp = qp_.lock()) qp->on_bell();
}

// Asked when it is armed, which is when the progress thread goes to sleep over it.
std::uint32_t Bell::wanted() const {
    if (doze()) ring(descriptor());
    return EPOLLIN;
}

Lease Bell::lease(Time at) const {
    const auto qp = qp_.lock();
    return qp ? qp->bell_lease(at) : Lease::none;
}

}  // namespace ndv::soft

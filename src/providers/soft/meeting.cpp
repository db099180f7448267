// SPDX-License-Identifier: Apache-2.0
// The offers of this process, and the memory and bells of a meeting that is taken up.
#include "providers/soft/meeting.hpp"

#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include <new>
#include <unordered_map>
#include <utility>

#include "base/mutex.hpp"

namespace ndv::soft {
namespace {

// All offers of this process. Never destroyed: a connector may outlive static objects.
class Offers {
public:
    static Offers& all() {
        static Offers* const offers = new Offers;
        return *offers;
    }

    // A child of a fork opens adapters of its own, and the thread that had the mutex is not there.
    Offers() {
        ::pthread_atfork([] { all().mutex_.lock(); }, [] { all().mutex_.unlock(); },
                         [] {
                             all().offers_.clear();  // the parent's
                             all().mutex_.unlock();
                         });
    }
    void add(const std::string& name, const std::weak_ptr<Meeting>& offer) {
        const base::Lock lock(mutex_);
        offers_[name] = offer;
    }
    void remove(const std::string& name) {
        const base::Lock lock(mutex_);
        // Another offer may have the name by now.
        const auto found = offers_.find(name);
        if (found != offers_.end() && found->second.expired()) offers_.erase(found);
    }
    [[nodiscard]] std::shared_ptr<Meeting> find(const std::string& name) {
        const base::Lock lock(mutex_);
        const auto found = offers_.find(name);
        return found == offers_.end() ? nullptr : found->second.lock();
    }

private:
    base::Mutex mutex_;
    std::unordered_map<std::string, std::weak_ptr<Meeting>> offers_ NDV_GUARDED_BY(mutex_);
};

// Of zeroes, and of pages that are there once they are touched.
std::shared_ptr<direct::Segment> make_segment() {
    constexpr std::size_t kSize = sizeof(direct::Segment);
    void* const at =
        ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return nullptr;
    return {new (at) direct::Segment, [](direct::Segment* segment) { ::munmap(segment, kSize); }};
}

}  // namespace

Meeting::Meeting(std::string name, Reach passive) : name_(std::move(name)) {
    reaches_[0] = std::move(passive);
}

Meeting::~Meeting() { Offers::all().remove(name_); }

std::shared_ptr<Meeting> Meeting::offer(const Link& link, Reach passive) {
    auto made = std::make_shared<Meeting>(link.name(false), std::move(passive));
    if (made->name_.empty()) return nullptr;
    Offers::all().add(made->name_, made);
    return made;
}

std::shared_ptr<Meeting> Meeting::find(const Link& link) {
    return Offers::all().find(link.name(true));
}

bool Meeting::take_up(Reach active) {
    // acquire, and acq_rel below: pairs with take_back(): that end sees what is written here, and
    // this one its reach.
    if (state_.load(std::memory_order_acquire) != State::offered) return false;
    reaches_[1] = std::move(active);
    segment_ = make_segment();
    for (base::Descriptor& bell : bells_) {
        bell = base::Descriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        if (!bell) return false;
    }
    State expected = State::offered;
    return segment_ &&
           state_.compare_exchange_strong(expected, State::taken_up, std::memory_order_acq_rel);
}

bool Meeting::take_back() {
    State expected = State::offered;
    return state_.compare_exchange_strong(expected, State::taken_back, std::memory_order_acq_rel);
}

}  // namespace ndv::soft

// SPDX-License-Identifier: Apache-2.0
// The offers of this process, those under names of the system, and the memory and bells of a
// meeting.
#include "providers/soft/meeting.hpp"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cstring>
#include <new>
#include <unordered_map>
#include <utility>

#include "base/shortage.hpp"
#include "direct/line.hpp"
#include "providers/soft/far_reach.hpp"

namespace ndv::soft {
namespace {

// Steps write to the peer's bell: to nothing that makes them wait, or fills up. Events are of one
// inode with what else is no file, pipe or socket, and that takes no bytes.
bool is_bell(int descriptor) {
    const base::Descriptor own(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    struct stat ours {};
    struct stat theirs {};
    return own && ::fstat(own.get(), &ours) == 0 && ::fstat(descriptor, &theirs) == 0 &&
           ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino &&
           (::fcntl(descriptor, F_GETFL) & O_NONBLOCK) != 0;
}

// A process that becomes another program lives, and its end of the pair does not: none of its
// threads is left by then. See PeerProcess::lives().
bool lives(const base::Descriptor& pair, const std::shared_ptr<PeerProcess>& peer) {
    pollfd life{pair.get(), 0, 0};
    if (pair && ::poll(&life, 1, 0) > 0) return false;
    return !peer || peer->lives();
}

// seq_cst: see MemoryTable::hide(). What it named before is not touched any more.
std::uint64_t hazard_of(const direct::Segment& segment, bool is_active) {
    return segment.sides[is_active ? 0 : 1].hazard.load(std::memory_order_seq_cst);
}

// With so much in the hands of peers that stand still, ends of other processes get TCP.
constexpr std::size_t kMostRemnants = 16;

// A peer that stands still in the memory of an end that is gone, and has closed.
class MeetingRemnant final : public FarUser, public Remnant {
public:
    MeetingRemnant(std::shared_ptr<direct::Segment> segment, bool is_active, base::Descriptor pair,
                   std::shared_ptr<PeerProcess> peer)
        : segment_(std::move(segment)),
          is_active_(is_active),
          pair_(std::move(pair)),
          peer_(std::move(peer)) {}
    [[nodiscard]] bool touches(std::uint64_t hazard) const override {
        return hazard_of(*segment_, is_active_) == hazard && lives(pair_, peer_);
    }
    [[nodiscard]] bool end() override {
        return hazard_of(*segment_, is_active_) == 0 || !lives(pair_, peer_);
    }

private:
    const std::shared_ptr<direct::Segment> segment_;
    const bool is_active_;
    const base::Descriptor pair_;
    const std::shared_ptr<PeerProcess> peer_;
};

// All offers of this process. Never destroyed: a connector may outlive static objects.
class Offers {
public:
    static Offers& all() {
        static Offers* const offers = new Offers;
        return *offers;
    }

    // A child of a fork opens adapters of its own, and the thread that had the mutex is not there.
    Offers() { ::pthread_atfork(hold, let_go, forget); }
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
    // Around a fork: the thread that forks has the mutex, in both processes.
    static void hold() NDV_THREAD_ATTRIBUTE(no_thread_safety_analysis) { all().mutex_.lock(); }
    static void let_go() NDV_THREAD_ATTRIBUTE(no_thread_safety_analysis) { all().mutex_.unlock(); }
    static void forget() NDV_THREAD_ATTRIBUTE(no_thread_safety_analysis) {
        all().offers_.clear();  // the parent's
        all().mutex_.unlock();
    }

    base::Mutex mutex_;
    std::unordered_map<std::string, std::weak_ptr<Meeting>> offers_ NDV_GUARDED_BY(mutex_);
};

// Of this process, and of pages that are there once they are touched.
std::shared_ptr<direct::Segment> make_segment() {
    constexpr std::size_t kSize = sizeof(direct::Segment);
    void* const at =
        ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return nullptr;
    return {new (at) direct::Segment, [](direct::Segment* segment) { ::munmap(segment, kSize); }};
}

std::shared_ptr<direct::Segment> map_segment(int file) {
    auto mapping = std::make_shared<base::FileMapping>(
        base::FileMapping::map(file, 0, sizeof(direct::Segment), true));
    if (!*mapping) return nullptr;
    auto* const segment = reinterpret_cast<direct::Segment*>(mapping->data());
    return {std::move(mapping), segment};
}

// What two processes have to agree on before they share memory.
constexpr std::uint64_t kLayout =
    (std::uint64_t{1} << 48U) ^ (sizeof(direct::Segment) << 20U) ^ sizeof(SharedTable);

struct Hello {
    std::uint64_t layout = kLayout;
    std::array<char, 160> name{};  // of which that of the socket is made
};

Hello hello_of(const std::string& name) {
    Hello made;
    name.copy(made.name.data(), made.name.size() - 1);
    return made;
}

template <typename Message>
std::span<std::byte> bytes_of(Message& message) {
    return std::as_writable_bytes(std::span(&message, 1));
}

// Segment, bells, table and arena; an answer has the last two.
constexpr std::size_t kOffered = 5;
constexpr std::size_t kAnswered = 2;

// NearReach on what it keeps.
struct NearMemory {
    std::shared_ptr<MemoryTable> table;
    DomainMemory memory;
    FaultyMemory faulty{memory, table->faults()};
    [[nodiscard]] iwarp::RemoteMemory& named() {
        if (table->faults()) return faulty;
        return memory;
    }
};
class KeptReach final : private NearMemory, public direct::NearReach {
public:
    explicit KeptReach(const soft::Reach& peer)
        : NearMemory{peer.table, {*peer.table, peer.domain, peer.queue_pair}},
          NearReach(NearMemory::named()) {}
};

// The end of a pair once more, so that each that looks at it can close it.
base::Descriptor again(const base::Descriptor& pair) {
    return base::Descriptor(::fcntl(pair.get(), F_DUPFD_CLOEXEC, 0));
}

}  // namespace

// What the passive end hears from other processes by.
class Invitation final : public Member {
public:
    Invitation(std::weak_ptr<Meeting> meeting, base::Descriptor socket)
        : meeting_(std::move(meeting)), socket_(std::move(socket)) {}
    [[nodiscard]] int descriptor() const { return socket_.get(); }

    void on_ready() override {
        Hello hello;
        auto parcel = take_parcel(socket_.get(), bytes_of(hello), 1);
        const auto meeting = meeting_.lock();
        if (!parcel || !meeting || hello.layout != kLayout) return;
        if (std::memcmp(hello.name.data(), hello_of(meeting->name_).name.data(),
                        hello.name.size()) == 0) {
            meeting->make_offer(std::move(parcel->descriptors[0]));
        }
    }
    [[nodiscard]] std::uint32_t wanted() const override { return EPOLLIN; }

private:
    const std::weak_ptr<Meeting> meeting_;
    const base::Descriptor socket_;
};

base::Descriptor say_hello(const Link& link) {
    const std::string name = link.name(true);
    if (name.empty() || !may_share_memory()) return {};
    base::Descriptor ours;
    base::Descriptor theirs;
    base::Descriptor voice(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    Hello hello = hello_of(name);
    if (!voice || !make_pair(ours, theirs)) return {};
    const int given = theirs.get();
    if (!send_parcel(voice.get(), name, bytes_of(hello), std::span(&given, 1))) return {};
    return ours;
}

Meeting::Meeting(std::string name, std::shared_ptr<Progress> progress,
                 std::shared_ptr<Acquaintance> acquaintance, bool is_active)
    : name_(std::move(name)),
      progress_(std::move(progress)),
      acquaintance_(std::move(acquaintance)),
      is_active_(is_active) {}

Meeting::~Meeting() {
    stop_hearing();
    if (!is_active_) Offers::all().remove(name_);
    leave_memory();
}

// However the connection ended: who has taken the offer up may have memory of this end in hand,
// and be stopped.
void Meeting::leave_memory() {
    // A forked child is no end of it, and ends of one process pin what they use.
    if (!pair_ || made_in_ != base::fork_generation() || take_back()) return;
    direct::Line line(segment_, is_active_);
    line.close();
    if (line.is_quiet() || !lives_peer()) return;
    std::shared_ptr<MeetingRemnant> left;
    try {
        base::with_memory([&] {
            if (!left) {
                left =
                    std::make_shared<MeetingRemnant>(segment_, is_active_, std::move(pair_), peer_);
            }
            own().table->add_user(left);
            progress_->keep(left);
        });
    } catch (const std::bad_alloc&) {
        // A destructor has no caller to report to.
        while (left ? !left->end() : !line.is_quiet() && lives_peer()) {
            base::pause_for_memory();
        }
    }
}

void Meeting::stop_hearing() {
    // In a forked child the thread that had the mutex may be gone.
    if (invitation_ && made_in_ == base::fork_generation()) {
        progress_->remove(*invitation_, invitation_->descriptor());
    }
    invitation_.reset();
}

std::shared_ptr<Meeting> Meeting::offer(const Link& link, Reach passive,
                                        const std::shared_ptr<Progress>& progress,
                                        const std::shared_ptr<Acquaintance>& acquaintance) {
    auto made = std::make_shared<Meeting>(link.name(false), progress, acquaintance, false);
    if (made->name_.empty()) return nullptr;
    const bool is_shared = passive.table->is_shared() && may_share_memory();
    made->reaches_[0] = std::move(passive);
    Offers::all().add(made->name_, made);
    if (!acquaintance || !is_shared || !is_one_host(link.local_address(), link.peer_address()))
        return made;
    if (base::Descriptor socket = hear_under(made->name_)) {
        auto invitation = std::make_shared<Invitation>(made, std::move(socket));
        if (progress->add(invitation, invitation->descriptor())) {
            made->invitation_ = std::move(invitation);
        }
    }
    return made;
}

std::shared_ptr<Meeting> Meeting::find(const Link& link) {
    return Offers::all().find(link.name(true));
}

Introduction Meeting::introduce(const Reach& own) const {
    return {acquaintance_->id, reinterpret_cast<std::uint64_t>(&acquaintance_->id), own.domain,
            own.queue_pair};
}

bool Meeting::make_means() {
    for (base::Descriptor& bell : bells_) {
        bell = base::Descriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        if (!bell) return false;
    }
    return true;
}

// On the progress thread: an end in another process has found this one.
void Meeting::make_offer(base::Descriptor pair) {
    const base::Lock lock(mutex_);
    if (state_ != State::offered) return;
    const Reach& own = reaches_[0];
    state_ = State::taken_back;  // unless all of it succeeds, and then there is no second one
    if (progress_->kept() >= kMostRemnants) return;
    segment_file_ = base::make_memory_file("ndverbs-segment", sizeof(direct::Segment));
    if (!segment_file_ || !make_means()) return;
    segment_ = map_segment(segment_file_.get());
    if (!segment_) return;
    pair_ = std::move(pair);
    // From the offer on the peer may be in this memory.
    own.table->add_user(weak_from_this());
    Introduction offer = introduce(own);
    const std::array<int, kOffered> given{segment_file_.get(), bells_[0].get(), bells_[1].get(),
                                          own.table->descriptor(),
                                          own.table->arena()->descriptor()};
    if (send_parcel(pair_.get(), {}, bytes_of(offer), given)) {
        state_ = State::awaited;
    } else {
        pair_.reset();  // the peer waits no longer
    }
    segment_file_.reset();
}

void Meeting::greet() {
    const base::Lock lock(mutex_);
    is_greeted_ = true;
}

std::shared_ptr<Meeting> Meeting::take_offer(base::Descriptor pair,
                                             std::shared_ptr<MemoryTable> own,
                                             const std::shared_ptr<Progress>& progress,
                                             const std::shared_ptr<Acquaintance>& acquaintance) {
    if (progress->kept() >= kMostRemnants) return nullptr;
    auto made = std::make_shared<Meeting>(std::string(), progress, acquaintance, true);
    auto parcel = take_parcel(pair.get(), bytes_of(made->theirs_), kOffered);
    if (!parcel || !own->is_shared()) return nullptr;
    auto& given = parcel->descriptors;
    if (!base::is_memory_file(given[0].get(), sizeof(direct::Segment))) return nullptr;
    if (!is_bell(given[1].get()) || !is_bell(given[2].get())) return nullptr;
    made->segment_ = map_segment(given[0].get());
    made->bells_ = {std::move(given[1]), std::move(given[2])};
    made->peer_ =
        acquaintance->processes.meet(made->theirs_, parcel->pid, std::move(given[3]),
                                     std::move(given[4]), again(pair), acquaintance->may_call);
    made->pair_ = std::move(pair);
    if (!made->segment_ || !made->peer_) return nullptr;
    return made;
}

bool Meeting::take_up(Reach active) {
    const base::Lock lock(mutex_);
    reaches_[1] = std::move(active);
    if (!is_active_) {
        // The same object is the passive end's.
        if (state_ != State::offered || !make_means()) return false;
        segment_ = make_segment();
        if (segment_) state_ = State::taken_up;
        return segment_ != nullptr;
    }
    const Reach& own = reaches_[1];
    own.table->add_user(weak_from_this());
    Introduction answer = introduce(own);
    const std::array<int, kAnswered> given{own.table->descriptor(),
                                           own.table->arena()->descriptor()};
    if (!send_parcel(pair_.get(), {}, bytes_of(answer), given)) return false;
    std::uint32_t expected = direct::state::kOffered;
    // acq_rel: pairs with take_back() of the other process.
    const bool is_ours = segment_->state.compare_exchange_strong(expected, direct::state::kTakenUp,
                                                                 std::memory_order_acq_rel);
    state_ = is_ours ? State::taken_up : State::taken_back;
    return is_ours;
}

bool Meeting::take_back() {
    const base::Lock lock(mutex_);
    stop_hearing();
    if (state_ == State::offered) state_ = State::taken_back;
    if (state_ != State::awaited) return state_ == State::taken_back;
    std::uint32_t expected = direct::state::kOffered;
    // acq_rel: pairs with take_up() of the other process, and its answer, which is there by then.
    const bool is_ours = segment_->state.compare_exchange_strong(
        expected, direct::state::kTakenBack, std::memory_order_acq_rel);
    state_ = is_ours ? State::taken_back : State::taken_up;
    if (!is_ours) static_cast<void>(take_answer());
    return is_ours;
}

bool Meeting::take_answer() {
    auto parcel = take_parcel(pair_.get(), bytes_of(theirs_), kAnswered);
    if (!parcel) return false;
    auto& given = parcel->descriptors;
    peer_ =
        acquaintance_->processes.meet(theirs_, parcel->pid, std::move(given[0]),
                                      std::move(given[1]), again(pair_), acquaintance_->may_call);
    return peer_ != nullptr;
}

bool Meeting::is_awaited() const {
    const base::Lock lock(mutex_);
    return state_ == State::awaited || (state_ == State::offered && is_greeted_);
}

std::unique_ptr<direct::Reach> Meeting::make_reach(bool is_active) const {
    if (peer_) {
        return std::make_unique<FarReach>(peer_, theirs_.domain, theirs_.queue_pair, own().table);
    }
    const Reach& peer = reaches_[is_active ? 0 : 1];
    return peer.table ? std::make_unique<KeptReach>(peer) : nullptr;
}

bool Meeting::lives_peer() const { return lives(pair_, peer_); }

bool Meeting::touches(std::uint64_t hazard) const {
    return hazard_of(*segment_, is_active_) == hazard && lives_peer();
}

const char* Meeting::transport() const {
    return peer_ && peer_->can_call() ? "direct+vm" : "direct";
}

}  // namespace ndv::soft

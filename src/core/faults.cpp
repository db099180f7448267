// SPDX-License-Identifier: Apache-2.0
// What a program asked for, and whose turn it is.
#include "core/faults.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

#include "core/completion_queue.hpp"
#include "core/types.hpp"

namespace ndv::core {
namespace {

constexpr const char* kStates[] = {
#define NDV_X(name) #name,
    NDV_CONNECTOR_STATE_LIST(NDV_X)
#undef NDV_X
};

}  // namespace

Expected<void> Faults::needs_link(const char* call) const {
    if (!is_direct_) return {};
    return fail(Status::not_supported,
                std::string(call) +
                    ": it strikes what a link carries, and Faults(direct=True) "
                    "leaves connections without one",
                "use Faults() without direct");
}

// What was sent before is not meant.
Expected<void> Faults::change(const char* call, const std::function<void(LinkFaults&)>& what) {
    if (auto can = needs_link(call); !can) return can;
    changed();
    {
        const base::Lock lock(mutex_);
        what(links_);
    }
    changed();
    return {};
}

Expected<void> Faults::cut(std::uint64_t after) {
    return change("cut", [after](LinkFaults& links) {
        links.cut_after = after;
        ++links.cut_call;
    });
}

Expected<void> Faults::delay(std::chrono::nanoseconds time, std::chrono::nanoseconds jitter) {
    return change("delay", [time, jitter](LinkFaults& links) {
        links.delay = time;
        links.jitter = jitter;
    });
}

Expected<void> Faults::stall() {
    return change("stall", [](LinkFaults& links) { links.is_stalled = true; });
}

void Faults::resume() {
    withholds_receives_.store(false, std::memory_order_release);  // pairs with its reader
    {
        const base::Lock lock(mutex_);
        links_.is_stalled = false;
    }
    changed();
}

Expected<void> Faults::corrupt(std::uint32_t every) {
    return change("corrupt", [every](LinkFaults& links) {
        links.corrupt_every = every;
        ++links.corrupt_call;
    });
}

Expected<void> Faults::kill_peer() {
    if (auto killed = change("kill_peer", [](LinkFaults& links) { ++links.kills; }); !killed) {
        return killed;
    }
    note("kill_peer");
    return {};
}

Expected<void> Faults::reset(const std::string& at) {
    if (auto can = needs_link("reset"); !can) return can;
    const auto* const found = std::ranges::find(kStates, at);
    const auto state = static_cast<ConnectorState>(found - std::begin(kStates));
    if (found == std::end(kStates) || state == ConnectorState::idle ||
        state == ConnectorState::disconnected) {
        return fail(Status::invalid_parameter, "reset: at \"" + at + "\" there is no connection",
                    "give a state of Connector.state: connecting, accepted, incoming, completing, "
                    "connected or disconnecting");
    }
    const base::Lock lock(mutex_);
    reset_at_ = state;
    return {};
}

Expected<void> Faults::refuse_next(std::uint32_t rights) {
    if ((rights & access::kRemote) == 0 || (rights & ~access::kAll) != 0) {
        return fail(Status::invalid_parameter,
                    "refuse_next: " + std::to_string(rights) + " is no right of a peer",
                    "give Access.REMOTE_READ, REMOTE_WRITE, REMOTE_ATOMIC or several of them");
    }
    const base::Lock lock(mutex_);
    refusals_.push_back(rights & access::kRemote);
    return {};
}

void Faults::withhold_receives() {
    withholds_receives_.store(true, std::memory_order_release);  // pairs with its reader
    changed();
}

void Faults::fail_registration(std::uint32_t count) {
    const base::Lock lock(mutex_);
    registrations_ = count;
}

std::vector<std::string> Faults::struck() const {
    const base::Lock lock(mutex_);
    return struck_;
}

void Faults::add(std::vector<Listener>& listeners, Listener made) {
    std::erase_if(listeners, [](const Listener& one) { return one.owner.expired(); });
    listeners.push_back(std::move(made));
}

void Faults::on_change(std::weak_ptr<void> owner, std::function<void()> function) {
    const base::Lock lock(mutex_);
    add(listeners_, {std::move(owner), std::move(function)});
}

void Faults::on_overrun(const std::shared_ptr<CompletionQueue>& queue,
                        std::function<void()> function) {
    const base::Lock lock(mutex_);
    add(queues_, {queue, std::move(function)});
}

Expected<void> Faults::overrun(const CompletionQueue& queue) {
    std::shared_ptr<void> owner;
    std::function<void()> function;
    {
        const base::Lock lock(mutex_);
        for (const Listener& one : queues_) {
            owner = one.owner.lock();
            if (owner.get() == &queue) function = one.function;
            if (function) break;
        }
    }
    if (!function) {
        return fail(Status::invalid_parameter,
                    "overrun: the completion queue is of an adapter without these faults",
                    "open its adapter with faults=");
    }
    function();
    note("overrun");
    return {};
}

void Faults::changed() {
    std::vector<Listener> listeners;
    {
        const base::Lock lock(mutex_);
        listeners = listeners_;
    }
    for (const Listener& one : listeners) {
        if (const auto owner = one.owner.lock()) one.function();
    }
}

LinkFaults Faults::of_links() const {
    const base::Lock lock(mutex_);
    return links_;
}

std::uint64_t Faults::next_number(bool is_active) {
    const base::Lock lock(mutex_);
    return ++(is_active ? active_ : passive_);
}

void Faults::note(std::string what) {
    const base::Lock lock(mutex_);
    note_locked(std::move(what));
}

void Faults::note_locked(std::string what) {
    if (struck_.size() < kMostStruck) struck_.push_back(std::move(what));
}

bool Faults::takes_cut(std::uint64_t call) {
    const base::Lock lock(mutex_);
    if (!links_.cut_after || links_.cut_call != call) return false;
    links_.cut_after.reset();
    return true;
}

bool Faults::takes_reset(ConnectorState state) {
    const base::Lock lock(mutex_);
    if (reset_at_ != state) return false;
    reset_at_.reset();
    note_locked(std::string("reset: ") + connector_state_name(state));
    return true;
}

bool Faults::takes_refusal(std::uint32_t right) {
    const base::Lock lock(mutex_);
    const auto found = std::ranges::find_if(
        refusals_, [right](std::uint32_t rights) { return (rights & right) != 0; });
    if (found == refusals_.end()) return false;
    refusals_.erase(found);
    note_locked(right == access::kRemoteRead        ? "refuse_next: a read"
                : right == access::kRemoteAtomicBit ? "refuse_next: an atomic"
                                                    : "refuse_next: a write");
    return true;
}

bool Faults::takes_registration() {
    const base::Lock lock(mutex_);
    if (registrations_ == 0) return false;
    --registrations_;
    note_locked("fail_registration");
    return true;
}

}  // namespace ndv::core

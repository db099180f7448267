// SPDX-License-Identifier: Apache-2.0
// Faults on demand: which a program wants of an adapter, and which have struck. It does nothing
// itself: the provider asks where a fault would happen, and says what it did. The same program with
// the same seed gets the same ones.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/expected.hpp"
#include "base/mutex.hpp"
#include "core/establishment.hpp"

namespace ndv::core {

class CompletionQueue;

// What happens to bytes on their way.
struct LinkFaults {
    bool is_stalled = false;
    std::chrono::nanoseconds delay{};
    std::chrono::nanoseconds jitter{};
    std::uint32_t corrupt_every = 0;         // frames; 0: none is corrupted
    std::uint64_t corrupt_call = 0;          // counts the calls: frames count from the last one
    std::optional<std::uint64_t> cut_after;  // bytes
    std::uint64_t cut_call = 0;              // the same
    std::uint64_t kills = 0;
};

class Faults {
public:
    // What memory can hold of them: a program that lets a million frames be corrupted has seen it.
    static constexpr std::size_t kMostStruck = 1000;

    // `is_direct`: connections may go on by memory, and what needs a link is refused.
    Faults(std::uint64_t seed, bool is_direct) : seed_(seed), is_direct_(is_direct) {}
    Faults(const Faults&) = delete;
    Faults& operator=(const Faults&) = delete;

    [[nodiscard]] std::uint64_t seed() const { return seed_; }
    [[nodiscard]] bool is_direct() const { return is_direct_; }

    // Of the program.
    [[nodiscard]] Expected<void> cut(std::uint64_t after);
    [[nodiscard]] Expected<void> delay(std::chrono::nanoseconds time,
                                       std::chrono::nanoseconds jitter);
    [[nodiscard]] Expected<void> stall();
    void resume();
    [[nodiscard]] Expected<void> corrupt(std::uint32_t every);
    [[nodiscard]] Expected<void> kill_peer();
    [[nodiscard]] Expected<void> reset(const std::string& at);
    [[nodiscard]] Expected<void> refuse_next(std::uint32_t rights);
    void withhold_receives();
    void fail_registration(std::uint32_t count);
    [[nodiscard]] Expected<void> overrun(const CompletionQueue& queue);
    // What has struck, in order.
    [[nodiscard]] std::vector<std::string> struck() const;

    // Of the provider.
    // Called by the program's thread around its calls, without locks, while `owner` lives.
    void on_change(std::weak_ptr<void> owner, std::function<void()> function);
    // How a completion queue overruns, while it lives.
    void on_overrun(const std::shared_ptr<CompletionQueue>& queue, std::function<void()> function);
    [[nodiscard]] LinkFaults of_links() const;
    // Numbers the connections of one side, from 1 on.
    [[nodiscard]] std::uint64_t next_number(bool is_active);
    void note(std::string what);
    // Each of these strikes once: true, here and now.
    [[nodiscard]] bool takes_cut(std::uint64_t call);
    [[nodiscard]] bool takes_reset(ConnectorState state);
    [[nodiscard]] bool takes_refusal(std::uint32_t right);
    [[nodiscard]] bool takes_registration();
    [[nodiscard]] bool withholds_receives() const {
        return withholds_receives_.load(std::memory_order_acquire);  // pairs with its writers
    }

private:
    struct Listener {
        std::weak_ptr<void> owner;
        std::function<void()> function;
    };
    [[nodiscard]] Expected<void> needs_link(const char* call) const;
    [[nodiscard]] Expected<void> change(const char* call,
                                        const std::function<void(LinkFaults&)>& what);
    void note_locked(std::string what) NDV_REQUIRES(mutex_);
    static void add(std::vector<Listener>& listeners, Listener made);
    void changed();

    const std::uint64_t seed_;
    const bool is_direct_;
    mutable base::Mutex mutex_;
    LinkFaults links_ NDV_GUARDED_BY(mutex_);
    std::optional<ConnectorState> reset_at_ NDV_GUARDED_BY(mutex_);
    std::vector<std::uint32_t> refusals_ NDV_GUARDED_BY(mutex_);  // rights, in order
    std::uint32_t registrations_ NDV_GUARDED_BY(mutex_) = 0;      // that are still to fail
    std::uint64_t active_ NDV_GUARDED_BY(mutex_) = 0;
    std::uint64_t passive_ NDV_GUARDED_BY(mutex_) = 0;
    std::vector<std::string> struck_ NDV_GUARDED_BY(mutex_);
    std::vector<Listener> listeners_ NDV_GUARDED_BY(mutex_);
    std::vector<Listener> queues_ NDV_GUARDED_BY(mutex_);
    std::atomic<bool> withholds_receives_{false};
};

}  // namespace ndv::core

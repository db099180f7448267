// SPDX-License-Identifier: Apache-2.0
// The state word under stress: posters publish requests and enter; the owner of the word steps all
// of them. Every request is stepped exactly once, in the order of its poster, by one thread at a
// time, and none is left behind when no poster comes after it.
#include "base/state_word.hpp"

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "base/ring.hpp"
#include "checks.hpp"
#include "cursor_access.hpp"

namespace {

using ndv::base::SpscCursor;
using ndv::base::StateWord;
using ndv::testing::Checks;

// One connection: a word, and a queue per poster that only the word's owner may drain.
class Connection {
public:
    Connection(Checks& checks, std::uint32_t posters, std::uint32_t depth) : checks_(checks) {
        for (std::uint32_t i = 0; i < posters; ++i) {
            queues_.push_back(std::make_unique<Queue>(depth));
            // Wraps through 2^32 during the run.
            ndv::testing::set_position(queues_.back()->cursor, 0U - 1000U - i);
        }
    }

    [[nodiscard]] bool is_full(std::uint32_t poster) const {
        return queues_[poster]->cursor.is_full();
    }
    // True: the word was ours, and the request was stepped during the call.
    bool post(std::uint32_t poster, std::uint64_t value) {
        Queue& queue = *queues_[poster];
        queue.slots[queue.cursor.tail_position() & queue.cursor.mask()] = value;
        queue.cursor.publish();
        if (!word_.enter()) return false;
        do {
            step();
        } while (!word_.leave());
        return true;
    }
    // acquire: pairs with the release in step().
    [[nodiscard]] std::uint64_t stepped(std::uint32_t poster) const {
        return queues_[poster]->stepped.load(std::memory_order_acquire);
    }
    [[nodiscard]] bool is_idle() const { return word_.is_idle(); }
    // After all posters are gone.
    [[nodiscard]] std::uint64_t total() const { return total_; }

private:
    struct Queue {
        explicit Queue(std::uint32_t depth) : cursor(depth), slots(cursor.mask() + 1) {}
        SpscCursor cursor;
        std::vector<std::uint64_t> slots;
        std::atomic<std::uint64_t> stepped{0};
    };

    // Plain data on purpose: two owners at once are a data race that the sanitizer reports.
    void step() {
        checks_.check(!is_stepping_, "one thread steps at a time");
        is_stepping_ = true;
        for (const auto& queue : queues_) {
            SpscCursor& cursor = queue->cursor;
            while (cursor.head_position() != cursor.published()) {
                const std::uint64_t value = queue->slots[cursor.head_position() & cursor.mask()];
                // release: pairs with the acquire in stepped().
                const auto expected = queue->stepped.load(std::memory_order_relaxed);
                checks_.check(value == expected, "requests are stepped once and in order");
                cursor.retire();
                queue->stepped.store(expected + 1, std::memory_order_release);
                ++total_;
            }
        }
        is_stepping_ = false;
    }

    Checks& checks_;
    StateWord word_;
    std::vector<std::unique_ptr<Queue>> queues_;
    bool is_stepping_ = false;
    std::uint64_t total_ = 0;
};

// `in_rounds`: each poster posts one request, and all wait until all of them were stepped. No
// poster enters meanwhile, so that a request which slipped through stays lost and is noticed.
void run(Checks& checks, std::uint32_t posters, std::uint32_t requests, bool in_rounds) {
    Connection connection(checks, posters, 8);
    std::atomic<std::uint32_t> ready{0};
    std::vector<std::thread> threads;
    for (std::uint32_t poster = 0; poster < posters; ++poster) {
        threads.emplace_back([&, poster] {
            ready.fetch_add(1);
            checks.wait_until([&] { return ready.load() == posters; }, "all posters start");
            for (std::uint64_t i = 0; i < requests; ++i) {
                checks.wait_until([&] { return !connection.is_full(poster); },
                                  "the stepper makes room in a full queue");
                if (connection.post(poster, i)) {
                    checks.check(connection.stepped(poster) == i + 1,
                                 "the owner's own request is stepped before it leaves");
                }
                for (std::uint32_t other = 0; in_rounds && other < posters; ++other) {
                    checks.wait_until([&] { return connection.stepped(other) > i; },
                                      "a published request is stepped by the owner of the word");
                }
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    checks.check(connection.is_idle(), "the word is idle when no thread is left");
    for (std::uint32_t poster = 0; poster < posters; ++poster) {
        checks.check(connection.stepped(poster) == requests, "no request is lost");
    }
    checks.check(connection.total() == std::uint64_t{posters} * requests,
                 "no request is stepped twice");
}

void test_transitions_of_one_thread(Checks& checks) {
    StateWord word;
    checks.check(word.is_idle(), "a new word is idle");
    checks.check(word.enter(), "an idle word can be entered");
    checks.check(!word.is_idle(), "an entered word is not idle");
    checks.check(word.leave(), "leaving succeeds when no poster asked for more");
    checks.check(word.is_idle(), "the word is idle after leaving");
    checks.check(word.enter(), "it can be entered again");
    checks.check(!word.enter(), "a word that is stepped cannot be entered");
    checks.check(!word.enter(), "not by a third one either");
    checks.check(!word.leave(), "leaving fails once for any number of requests for more");
    checks.check(!word.is_idle(), "the owner keeps the word then");
    checks.check(word.leave(), "leaving succeeds after the extra step");
    checks.check(word.try_enter(), "an idle word can be entered by a thread that asks for no step");
    checks.check(!word.try_enter(), "and one that is stepped cannot");
    checks.check(word.leave(), "which leaves no request behind");
}

}  // namespace

int main(int argc, char** argv) {
    Checks checks("test_state_word");
    const std::uint32_t requests = ndv::testing::size_argument(argc, argv, 120'000);
    test_transitions_of_one_thread(checks);
    for (const std::uint32_t posters : {2U, 3U, 4U}) {
        run(checks, posters, requests, true);
        run(checks, posters, requests, false);
    }
    return checks.finish();
}

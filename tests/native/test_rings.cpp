// SPDX-License-Identifier: Apache-2.0
// The rings under stress: nothing is lost, doubled or reordered, positions wrap through 2^32, and
// a ring takes exactly its depth.
#include "base/ring.hpp"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <span>
#include <thread>
#include <vector>

#include "checks.hpp"
#include "cursor_access.hpp"

namespace {

using ndv::base::MpscRing;
using ndv::base::SpscCursor;
using ndv::testing::Checks;

struct Item {
    std::uint32_t producer = 0;
    std::uint64_t value = 0;
    std::uint64_t echo = 0;  // equal to `value`, or the item was read half written
};

void test_cursor_takes_exactly_its_depth_across_the_wrap(Checks& checks, std::uint32_t depth) {
    SpscCursor cursor(depth);
    checks.check(cursor.depth() == depth, "the depth is the one asked for");
    checks.check(cursor.mask() + 1 >= depth, "the mask leaves a slot for each");
    ndv::testing::set_position(cursor, 0U - depth - 2);
    for (std::uint32_t lap = 0; lap < 3 * depth + 7; ++lap) {
        const std::uint32_t first = cursor.tail_position();
        for (std::uint32_t i = 0; i < depth; ++i) {
            checks.check(!cursor.is_full(), "a cursor with room is not full");
            checks.check(cursor.size() == i, "the size counts what was published");
            cursor.publish();
        }
        checks.check(cursor.is_full(), "a cursor is full after its depth");
        checks.check(cursor.published() - cursor.head_position() == depth,
                     "positions differ by the depth across the wrap");
        for (std::uint32_t i = 0; i < depth; ++i) {
            checks.check(cursor.head_position() == first + i, "positions go up by one");
            cursor.retire();
            checks.check(!cursor.is_full(), "retiring one makes room for one");
        }
        checks.check(cursor.size() == 0, "all retired is empty");
        cursor.publish();
        cursor.retire();
    }
}

void test_cursor_hands_slots_between_two_threads(Checks& checks, std::uint32_t depth,
                                                 std::uint64_t count) {
    SpscCursor cursor(depth);
    ndv::testing::set_position(cursor, 0U - static_cast<std::uint32_t>(count / 2));
    std::vector<std::uint64_t> slots(cursor.mask() + 1);  // plain: the cursor orders them
    std::thread producer([&] {
        for (std::uint64_t i = 0; i < count; ++i) {
            checks.wait_until([&] { return !cursor.is_full(); }, "the consumer makes room");
            slots[cursor.tail_position() & cursor.mask()] = i;
            cursor.publish();
        }
    });
    for (std::uint64_t i = 0; i < count; ++i) {
        checks.wait_until([&] { return cursor.published() != cursor.head_position(); },
                          "the producer publishes");
        checks.check(slots[cursor.head_position() & cursor.mask()] == i,
                     "the consumer sees the content of each slot, in order");
        cursor.retire();
    }
    producer.join();
    checks.check(cursor.size() == 0, "nothing is left");
}

void test_ring_takes_exactly_its_depth(Checks& checks, std::uint32_t depth) {
    MpscRing<Item> ring(depth);
    checks.check(ring.depth() == depth, "the depth is the one asked for");
    Item out;
    for (std::uint64_t lap = 0; lap < 20; ++lap) {
        checks.check(ring.is_empty(), "a drained ring is empty");
        checks.check(!ring.pop(out), "an empty ring gives nothing");
        for (std::uint64_t i = 0; i < depth; ++i) {
            checks.check(ring.push({0, lap + i, lap + i}), "a ring with room takes an item");
            checks.check(!ring.is_empty(), "then it is not empty");
        }
        checks.check(!ring.push({0, 999, 999}), "a full ring refuses");
        checks.check(!ring.push({0, 999, 999}), "and goes on refusing");
        checks.check(ring.pop(out) && out.value == lap, "the oldest comes first");
        checks.check(ring.push({0, lap + depth, lap + depth}), "one popped makes room for one");
        checks.check(!ring.push({0, 999, 999}), "and not for two");
        for (std::uint64_t i = 1; i <= depth; ++i) {
            checks.check(ring.pop(out) && out.value == lap + i, "a refused item leaves no trace");
        }
    }
}

// `count` items, in runs of up to `most`.
void push_all(Checks& checks, MpscRing<Item>& ring, std::uint32_t producer, std::uint64_t count,
              std::size_t most) {
    std::vector<Item> run(most);
    for (std::uint64_t done = 0; done < count;) {
        const auto size = static_cast<std::size_t>(std::min<std::uint64_t>(most, count - done));
        for (std::size_t i = 0; i < size; ++i) run[i] = {producer, done + i, done + i};
        std::size_t pushed = 0;
        checks.wait_until([&] { return (pushed = ring.push(std::span(run.data(), size))) > 0; },
                          "the consumer makes room");
        done += pushed;
    }
}

void test_a_ring_takes_of_a_run_what_fits(Checks& checks) {
    MpscRing<Item> ring(5);
    std::vector<Item> run;
    for (std::uint64_t i = 0; i < 4; ++i) run.push_back({0, i, i});
    checks.check(ring.push(std::span<const Item>{}) == 0 && ring.is_empty(), "no run is nothing");
    checks.check(ring.push(std::span<const Item>(run)) == 4, "a run with room goes in whole");
    checks.check(ring.push(std::span<const Item>(run)) == 1, "of a longer one its beginning");
    checks.check(ring.push(std::span<const Item>(run)) == 0, "and of another nothing");
    Item out;
    for (const std::uint64_t value : {0U, 1U, 2U, 3U, 0U}) {
        checks.check(ring.pop(out) && out.value == value, "in order");
    }
    checks.check(!ring.pop(out), "and no more");
}

void test_ring_keeps_the_order_of_each_producer(Checks& checks, std::uint32_t producers,
                                                std::uint32_t depth, std::uint64_t count,
                                                std::size_t most) {
    MpscRing<Item> ring(depth);
    std::vector<std::thread> threads;
    for (std::uint32_t producer = 0; producer < producers; ++producer) {
        threads.emplace_back([&, producer] { push_all(checks, ring, producer, count, most); });
    }
    std::vector<std::uint64_t> next(producers, 0);
    for (std::uint64_t i = 0; i < count * producers; ++i) {
        Item item;
        checks.wait_until([&] { return ring.pop(item); }, "what was pushed comes out");
        checks.check(item.value == item.echo, "an item is never half written");
        if (item.producer >= producers) {
            checks.check(false, "an item is one that was pushed");
            continue;
        }
        checks.check(item.value == next[item.producer]++,
                     "items of one producer come once each and in order");
    }
    for (std::thread& thread : threads) thread.join();
    Item extra;
    checks.check(!ring.pop(extra), "nothing comes out that was not pushed");
}

// Overrun while producers race: no thread pops, so exactly `depth` of them may succeed.
void test_racing_producers_overrun_at_the_depth(Checks& checks, std::uint32_t producers,
                                                std::uint32_t depth, std::uint32_t laps) {
    MpscRing<Item> ring(depth);
    for (std::uint32_t lap = 0; lap < laps; ++lap) {
        std::atomic<std::uint64_t> taken{0};
        std::atomic<std::uint32_t> ready{0};
        std::vector<std::thread> threads;
        for (std::uint32_t producer = 0; producer < producers; ++producer) {
            threads.emplace_back([&, producer] {
                ready.fetch_add(1);
                checks.wait_until([&] { return ready.load() == producers; }, "all start");
                for (std::uint64_t i = 0; i < depth; ++i) {
                    if (ring.push({producer, i, i})) taken.fetch_add(1);
                }
            });
        }
        for (std::thread& thread : threads) thread.join();
        checks.check(taken.load() == depth, "exactly the depth is accepted");
        checks.check(!ring.push({0, 0, 0}), "the ring is full");
        Item item;
        std::uint64_t popped = 0;
        while (ring.pop(item)) {
            checks.check(item.value == item.echo, "an item is never half written");
            ++popped;
        }
        checks.check(popped == depth, "and exactly the depth comes out");
    }
}

void test_resizing_keeps_what_waits_and_its_order(Checks& checks) {
    MpscRing<Item> ring(3);
    std::uint64_t pushed = 0;
    std::uint64_t popped = 0;
    Item out;
    for (const std::uint32_t depth : {3U, 2U, 8U, 9U, 100U, 5U, 64U, 1000U}) {
        while (ring.size() > depth) checks.check(ring.pop(out) && out.value == popped++, "order");
        checks.check(ring.resize(depth), "a ring resizes to what holds its content");
        checks.check(ring.depth() == depth, "the depth is the new one");
        while (ring.push({0, pushed, pushed})) ++pushed;
        checks.check(ring.size() == depth, "it takes exactly the new depth");
        checks.check(depth == 1 || !ring.resize(depth - 1), "it does not shrink below its content");
        checks.check(ring.depth() == depth, "and a refused resize changes nothing");
        checks.check(ring.pop(out) && out.value == popped++, "the oldest comes first");
    }
    while (ring.pop(out)) checks.check(out.value == popped++, "nothing is lost or reordered");
    checks.check(popped == pushed && ring.is_empty(), "all came out");
}

void test_resizes_with_nothing_in_between(Checks& checks) {
    MpscRing<Item> ring(2);
    Item out;
    std::uint64_t value = 0;
    for (std::uint32_t depth = 4; depth <= 4096; depth *= 8) {
        // Two growths in a row leave a segment that nothing was ever pushed into.
        checks.check(ring.resize(depth) && ring.resize(2 * depth) && ring.resize(4 * depth),
                     "an empty ring grows");
        checks.check(ring.is_empty() && !ring.pop(out), "and is empty");
        checks.check(ring.push({0, value, value}) && !ring.is_empty(), "what comes then shows");
        checks.check(ring.pop(out) && out.value == value && ring.is_empty(), "and comes out");
        ++value;
    }
}

void test_resizing_beside_producers_and_a_consumer(Checks& checks, std::uint32_t producers,
                                                   std::uint64_t count) {
    MpscRing<Item> ring(1);
    std::atomic<bool> is_over{false};
    std::vector<std::thread> threads;
    for (std::uint32_t producer = 0; producer < producers; ++producer) {
        // The first pushes one by one, others in longer and longer runs.
        threads.emplace_back(
            [&, producer] { push_all(checks, ring, producer, count, 1 + 3 * producer); });
    }
    threads.emplace_back([&] {
        // Up in small steps, so that every growth is a new segment; down whenever it may.
        for (std::uint32_t depth = 1; !is_over.load(); depth = depth % 3000 + 1) {
            static_cast<void>(ring.resize(depth));
            std::this_thread::yield();
        }
    });
    std::vector<std::uint64_t> next(producers, 0);
    for (std::uint64_t i = 0; i < count * producers; ++i) {
        Item item;
        checks.wait_until([&] { return ring.pop(item); }, "what was pushed comes out");
        checks.check(item.value == item.echo && item.value == next[item.producer]++,
                     "items of one producer come once each, whole and in order");
    }
    is_over.store(true);
    for (std::thread& thread : threads) thread.join();
    checks.check(ring.is_empty() && ring.size() == 0, "nothing is left");
}

}  // namespace

int main(int argc, char** argv) {
    Checks checks("test_rings");
    const std::uint64_t count = ndv::testing::size_argument(argc, argv, 100'000);
    for (const std::uint32_t depth : {1U, 2U, 3U, 5U, 8U, 100U}) {
        test_cursor_takes_exactly_its_depth_across_the_wrap(checks, depth);
        test_ring_takes_exactly_its_depth(checks, depth);
    }
    for (const std::uint32_t depth : {1U, 3U, 64U}) {
        test_cursor_hands_slots_between_two_threads(checks, depth, count);
        test_ring_keeps_the_order_of_each_producer(checks, 3, depth, count / 3, 1);
        test_ring_keeps_the_order_of_each_producer(checks, 3, depth, count / 3, 7);
    }
    test_a_ring_takes_of_a_run_what_fits(checks);
    test_racing_producers_overrun_at_the_depth(checks, 4, 37, 100);
    test_resizing_keeps_what_waits_and_its_order(checks);
    test_resizes_with_nothing_in_between(checks);
    test_resizing_beside_producers_and_a_consumer(checks, 3, count / 3);
    return checks.finish();
}

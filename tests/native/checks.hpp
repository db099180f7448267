// SPDX-License-Identifier: Apache-2.0
// Counted checks for the native tests: a failed one is printed with its sentence, and the process
// says at the end how many there were.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>

namespace ndv::testing {

class Checks {
public:
    explicit Checks(const char* name) : name_(name) {}

    void check(bool is_true, const char* sentence) {
        count_.fetch_add(1, std::memory_order_relaxed);
        if (is_true) return;
        if (failures_.fetch_add(1, std::memory_order_relaxed) < kPrinted) {
            std::fprintf(stderr, "FAILED %s: %s\n", name_, sentence);
        }
    }

    // Yields until `is_done()`; a limit that only means failure ends the process.
    template <typename Predicate>
    void wait_until(Predicate is_done, const char* sentence) {
        const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(120);
        for (std::uint32_t round = 1; !is_done(); ++round) {
            std::this_thread::yield();
            if (round % 1024 == 0 && std::chrono::steady_clock::now() > limit) {
                std::fprintf(stderr, "FAILED %s: %s\n", name_, sentence);
                std::_Exit(1);
            }
        }
    }

    // The exit status of the process.
    [[nodiscard]] int finish() const {
        const auto failures = failures_.load(std::memory_order_relaxed);
        std::printf("%s: %llu checks, %llu failed\n", name_,
                    static_cast<unsigned long long>(count_.load(std::memory_order_relaxed)),
                    static_cast<unsigned long long>(failures));
        return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
    }

private:
    static constexpr std::uint64_t kPrinted = 20;
    const char* const name_;
    std::atomic<std::uint64_t> count_{0};
    std::atomic<std::uint64_t> failures_{0};
};

// The first argument, or what suits both `make test` and the thread sanitizer.
[[nodiscard]] inline std::uint32_t size_argument(int argc, char** argv, std::uint32_t usual) {
    return argc > 1 ? static_cast<std::uint32_t>(std::strtoul(argv[1], nullptr, 10)) : usual;
}

}  // namespace ndv::testing

// SPDX-License-Identifier: Apache-2.0
// The descriptor registry and the atfork handlers behind fork.hpp.
#include "base/fork.hpp"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "base/mutex.hpp"

namespace ndv::base {
namespace {

constinit std::atomic<unsigned> generation{0};

// Held across fork() by the prepare handler, so that the child finds the list whole.
constinit Mutex registry_mutex;

// Never freed: handlers may run during process exit.
std::vector<int>& registry() NDV_REQUIRES(registry_mutex) {
    static auto* descriptors = new std::vector<int>;
    return *descriptors;
}

void forget(int fd) NDV_REQUIRES(registry_mutex) {
    auto& descriptors = registry();
    const auto found = std::find(descriptors.begin(), descriptors.end(), fd);
    if (found == descriptors.end()) return;
    *found = descriptors.back();
    descriptors.pop_back();
}

void before_fork() NDV_THREAD_ATTRIBUTE(acquire_capability(registry_mutex)) {
    registry_mutex.lock();
}
void after_fork_in_parent() NDV_THREAD_ATTRIBUTE(release_capability(registry_mutex)) {
    registry_mutex.unlock();
}
void after_fork_in_child() NDV_THREAD_ATTRIBUTE(release_capability(registry_mutex)) {
    for (const int fd : registry()) ::close(fd);
    registry().clear();
    generation.fetch_add(1, std::memory_order_relaxed);
    registry_mutex.unlock();
}

}  // namespace

unsigned fork_generation() noexcept { return generation.load(std::memory_order_relaxed); }

void register_descriptor(int fd) {
    static const int installed =
        pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    static_cast<void>(installed);
    const Lock lock(registry_mutex);
    registry().push_back(fd);
}

void forget_descriptor(int fd) noexcept {
    const Lock lock(registry_mutex);
    forget(fd);
}

void close_descriptor(int fd) noexcept {
    const Lock lock(registry_mutex);
    forget(fd);
    ::close(fd);
}

}  // namespace ndv::base

// SPDX-License-Identifier: Apache-2.0
// The descriptor registry and the atfork handlers behind fork.hpp.
#include "base/fork.hpp"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <vector>

namespace ndv::base {
namespace {

constinit std::atomic<unsigned> generation{0};

// Held across fork() by the prepare handler, so that the child finds the list whole.
constinit pthread_mutex_t registry_mutex = PTHREAD_MUTEX_INITIALIZER;

// Scoped: registering allocates, and may throw.
class RegistryLock {
public:
    RegistryLock() { pthread_mutex_lock(&registry_mutex); }
    ~RegistryLock() { pthread_mutex_unlock(&registry_mutex); }
    RegistryLock(const RegistryLock&) = delete;
    RegistryLock& operator=(const RegistryLock&) = delete;
};

// Never freed: handlers may run during process exit.
std::vector<int>& registry() {
    static auto* descriptors = new std::vector<int>;
    return *descriptors;
}

// Under the mutex.
void forget(int fd) {
    auto& descriptors = registry();
    const auto found = std::find(descriptors.begin(), descriptors.end(), fd);
    if (found == descriptors.end()) return;
    *found = descriptors.back();
    descriptors.pop_back();
}

void before_fork() { pthread_mutex_lock(&registry_mutex); }
void after_fork_in_parent() { pthread_mutex_unlock(&registry_mutex); }
void after_fork_in_child() {
    for (const int fd : registry()) ::close(fd);
    registry().clear();
    generation.fetch_add(1, std::memory_order_relaxed);
    pthread_mutex_unlock(&registry_mutex);
}

}  // namespace

unsigned fork_generation() noexcept { return generation.load(std::memory_order_relaxed); }

void register_descriptor(int fd) {
    static const int installed =
        pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    static_cast<void>(installed);
    const RegistryLock lock;
    registry().push_back(fd);
}

void forget_descriptor(int fd) noexcept {
    const RegistryLock lock;
    forget(fd);
}

void close_descriptor(int fd) noexcept {
    const RegistryLock lock;
    forget(fd);
    ::close(fd);
}

}  // namespace ndv::base

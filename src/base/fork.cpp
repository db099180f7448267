// SPDX-License-Identifier: Apache-2.0
// The descriptor registry and the atfork handlers behind fork.hpp.
#include "base/fork.hpp"

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <vector>

namespace ndv::base {
namespace {

constinit std::atomic<unsigned> generation{0};

// Held across fork() by the prepare handler, so that the child finds the list whole.
constinit pthread_mutex_t registry_mutex = PTHREAD_MUTEX_INITIALIZER;

// Never freed: handlers may run during process exit.
std::vector<int>& registry() {
    static auto* descriptors = new std::vector<int>;
    return *descriptors;
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
    pthread_mutex_lock(&registry_mutex);
    registry().push_back(fd);
    pthread_mutex_unlock(&registry_mutex);
}

void forget_descriptor(int fd) noexcept {
    pthread_mutex_lock(&registry_mutex);
    auto& descriptors = registry();
    for (std::size_t i = 0; i < descriptors.size(); ++i) {
        if (descriptors[i] == fd) {
            descriptors[i] = descriptors.back();
            descriptors.pop_back();
            break;
        }
    }
    pthread_mutex_unlock(&registry_mutex);
}

}  // namespace ndv::base

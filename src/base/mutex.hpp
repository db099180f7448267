// SPDX-License-Identifier: Apache-2.0
// A mutex that clang's thread-safety analysis understands, and its scoped lock.
#pragma once

#include <mutex>

#if defined(__clang__)
#define NDV_THREAD_ATTRIBUTE(x) __attribute__((x))
#else
#define NDV_THREAD_ATTRIBUTE(x)
#endif
#define NDV_GUARDED_BY(x) NDV_THREAD_ATTRIBUTE(guarded_by(x))
#define NDV_REQUIRES(...) NDV_THREAD_ATTRIBUTE(requires_capability(__VA_ARGS__))

namespace ndv::base {

class NDV_THREAD_ATTRIBUTE(capability("mutex")) Mutex {
public:
    void lock() NDV_THREAD_ATTRIBUTE(acquire_capability()) { mutex_.lock(); }
    void unlock() NDV_THREAD_ATTRIBUTE(release_capability()) { mutex_.unlock(); }
    // For std::condition_variable, which needs the native type; see UniqueLock.
    [[nodiscard]] std::mutex& native() { return mutex_; }

private:
    std::mutex mutex_;
};

class NDV_THREAD_ATTRIBUTE(scoped_lockable) Lock {
public:
    explicit Lock(Mutex& mutex) NDV_THREAD_ATTRIBUTE(acquire_capability(mutex)) : mutex_(mutex) {
        mutex_.lock();
    }
    ~Lock() NDV_THREAD_ATTRIBUTE(release_capability()) { mutex_.unlock(); }
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

private:
    Mutex& mutex_;
};

// A scoped lock whose native form a condition variable can wait on.
class NDV_THREAD_ATTRIBUTE(scoped_lockable) UniqueLock {
public:
    explicit UniqueLock(Mutex& mutex) NDV_THREAD_ATTRIBUTE(acquire_capability(mutex))
        : lock_(mutex.native()) {}
    ~UniqueLock() NDV_THREAD_ATTRIBUTE(release_capability()) {}
    [[nodiscard]] std::unique_lock<std::mutex>& native() { return lock_; }

private:
    std::unique_lock<std::mutex> lock_;
};

}  // namespace ndv::base

// SPDX-License-Identifier: Apache-2.0
// Owns one file descriptor, known to the fork registry for as long as it is open.
#pragma once

#include <utility>

#include "base/fork.hpp"

namespace ndv::base {

class Descriptor {
public:
    Descriptor() = default;
    // Delegates: one that cannot be registered is destroyed, and so closed.
    explicit Descriptor(int fd) : Descriptor() {
        fd_ = fd;
        made_in_ = fork_generation();
        if (fd_ >= 0) register_descriptor(fd_);
    }
    Descriptor(Descriptor&& other) noexcept
        : fd_(std::exchange(other.fd_, -1)), made_in_(other.made_in_) {}
    Descriptor& operator=(Descriptor&& other) noexcept {
        if (this != &other) {
            reset();
            fd_ = std::exchange(other.fd_, -1);
            made_in_ = other.made_in_;
        }
        return *this;
    }
    ~Descriptor() { reset(); }

    [[nodiscard]] int get() const { return fd_; }
    explicit operator bool() const { return fd_ >= 0; }

    void reset() {
        const int fd = std::exchange(fd_, -1);
        // In a forked child the number is closed already and may name another file by now.
        if (fd < 0 || made_in_ != fork_generation()) return;
        close_descriptor(fd);
    }

private:
    int fd_ = -1;
    unsigned made_in_ = 0;
};

}  // namespace ndv::base

// SPDX-License-Identifier: Apache-2.0
// A file in memory that processes map: it never changes its size, so that no access to it faults
// for that, and no forked child has it.
#pragma once

#include <cstddef>
#include <utility>

#include "base/descriptor.hpp"

namespace ndv::base {

// Pages of a file in this process.
class FileMapping {
public:
    FileMapping() = default;
    FileMapping(const FileMapping&) = delete;
    FileMapping& operator=(const FileMapping&) = delete;
    FileMapping(FileMapping&& other) noexcept
        : at_(std::exchange(other.at_, nullptr)), size_(other.size_), made_in_(other.made_in_) {}
    FileMapping& operator=(FileMapping&& other) noexcept;
    ~FileMapping() { reset(); }

    // Null when the system has no room for it. `offset` is a multiple of the page size.
    [[nodiscard]] static FileMapping map(int fd, std::size_t offset, std::size_t size,
                                         bool is_writable, bool is_for_children = false);

    [[nodiscard]] std::byte* data() const { return at_; }
    [[nodiscard]] std::size_t size() const { return size_; }
    explicit operator bool() const { return at_ != nullptr; }
    void reset();

private:
    std::byte* at_ = nullptr;
    std::size_t size_ = 0;
    unsigned made_in_ = 0;
};

// Of zeroes, which take memory once they are touched. No descriptor: the system does not have it.
[[nodiscard]] Descriptor make_memory_file(const char* name, std::size_t size);
// Mappings that are writable can be made no more; those that there are stay so.
[[nodiscard]] bool forbid_writing(int fd);
// Whether it is what make_memory_file() makes with that size.
[[nodiscard]] bool is_memory_file(int fd, std::size_t size);

}  // namespace ndv::base

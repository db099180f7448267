// SPDX-License-Identifier: Apache-2.0
// memfd_create and its seals.
#include "base/shared_memory.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

namespace ndv::base {
namespace {

#if !defined(F_SEAL_FUTURE_WRITE)
constexpr int F_SEAL_FUTURE_WRITE = 0x0010;  // Linux 5.1
#endif

constexpr int kSize = F_SEAL_SHRINK | F_SEAL_GROW;

}  // namespace

FileMapping& FileMapping::operator=(FileMapping&& other) noexcept {
    if (this != &other) {
        reset();
        at_ = std::exchange(other.at_, nullptr);
        size_ = other.size_;
        made_in_ = other.made_in_;
    }
    return *this;
}

FileMapping FileMapping::map(int fd, std::size_t offset, std::size_t size, bool is_writable,
                             bool is_for_children) {
    FileMapping made;
    void* const at = ::mmap(nullptr, size, is_writable ? PROT_READ | PROT_WRITE : PROT_READ,
                            MAP_SHARED, fd, static_cast<off_t>(offset));
    if (at == MAP_FAILED) return made;
    if (!is_for_children) static_cast<void>(::madvise(at, size, MADV_DONTFORK));
    made.at_ = static_cast<std::byte*>(at);
    made.size_ = size;
    made.made_in_ = fork_generation();
    return made;
}

void FileMapping::reset() {
    std::byte* const at = std::exchange(at_, nullptr);
    // In a forked child there is nothing, or other memory by now.
    if (at != nullptr && made_in_ == fork_generation()) ::munmap(at, size_);
}

Descriptor make_memory_file(const char* name, std::size_t size) {
    // Beyond the limit the system would send a signal.
    rlimit limit{};
    if (::getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur < size) return {};
    Descriptor made(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!made || ::ftruncate(made.get(), static_cast<off_t>(size)) != 0 ||
        ::fcntl(made.get(), F_ADD_SEALS, kSize) != 0) {
        return {};
    }
    return made;
}

bool forbid_writing(int fd) {
    return ::fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) == 0;
}

bool is_memory_file(int fd, std::size_t size) {
    struct stat found {};
    const int seals = ::fcntl(fd, F_GET_SEALS);
    return seals >= 0 && (seals & kSize) == kSize && ::fstat(fd, &found) == 0 &&
           static_cast<std::size_t>(found.st_size) == size;
}

}  // namespace ndv::base

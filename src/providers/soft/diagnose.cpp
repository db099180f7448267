// SPDX-License-Identifier: Apache-2.0
// What `ndverbs doctor` says about the soft provider: TCP works, and the limits that cost speed.
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <string>
#include <system_error>

#include "providers/soft/adapter.hpp"

namespace ndv::soft {
namespace {

constexpr std::uint64_t kGoodBuffer = 1U << 20U;  // what LocalBuffers asks for
constexpr rlim_t kGoodOpenFiles = 4096;

// Binding works also while the interface is down; a connection does not.
core::Finding check_loopback() {
    const base::Descriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const base::Descriptor client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    auto* const raw = reinterpret_cast<sockaddr*>(&address);
    socklen_t length = sizeof address;
    const timeval limit{.tv_sec = 1, .tv_usec = 0};  // a packet filter may drop it without a word
    const bool is_good =
        socket && client && ::bind(socket.get(), raw, length) == 0 &&
        ::listen(socket.get(), 1) == 0 && ::getsockname(socket.get(), raw, &length) == 0 &&
        ::setsockopt(client.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0 &&
        ::connect(client.get(), raw, length) == 0;
    return {"TCP on the loopback address", is_good,
            is_good ? "works" : std::generic_category().message(errno),
            is_good ? ""
                    : "bring the loopback interface up (ip link set lo up), and let packet filters "
                      "pass what stays on it"};
}

core::Finding check_buffer(const char* name) {
    std::uint64_t most = 0;
    std::ifstream("/proc/sys/net/core/" + std::string(name)) >> most;
    const bool is_good = most >= kGoodBuffer;
    return {"socket buffers", is_good, std::string(name) + " is " + std::to_string(most),
            is_good ? ""
                    : "large transfers on this host are faster with sysctl -w net.core." +
                          std::string(name) + "=4194304"};
}

core::Finding check_open_files() {
    rlimit limit{};
    static_cast<void>(::getrlimit(RLIMIT_NOFILE, &limit));
    const bool is_good = limit.rlim_cur >= kGoodOpenFiles;
    return {"open files", is_good,
            "the limit is " + std::to_string(limit.rlim_cur) + ", one or two per connection",
            is_good ? "" : "for many connections raise it (ulimit -n)"};
}

// Whether processes of this host may share memory, and copy from each other by the kernel.
core::Finding check_direct() {
    const char* const check = "memory between processes";
    if (!may_share_memory()) {
        return {check, false, "connections stay with TCP: the user of this process is changed",
                "run as the user that has logged in"};
    }
    if (!base::make_memory_file("ndverbs-doctor", 4096)) {
        return {check, false, "connections stay with TCP: no memory files",
                "let the sandbox allow memfd_create and files of 1 TiB without content "
                "(ulimit -f)"};
    }
    std::uint64_t word = 1;
    std::uint64_t copy = 0;
    const iovec ours{&copy, sizeof copy};
    const iovec theirs{&word, sizeof word};
    const bool may_call = ::process_vm_readv(::getpid(), &ours, 1, &theirs, 1, 0) == sizeof copy;
    int scope = 0;
    std::ifstream("/proc/sys/kernel/yama/ptrace_scope") >> scope;
    if (may_call && scope == 0) return {check, true, "works, and the kernel copies", ""};
    return {check, false,
            std::string("works, but the kernel does not copy (") +
                (may_call ? "ptrace_scope is " + std::to_string(scope)
                          : "process_vm_readv is forbidden") +
                ")",
            "arrays of Adapter.alloc_array need no such copies"};
}

}  // namespace

std::vector<core::Finding> SoftProvider::diagnose() const {
    return {check_loopback(), check_buffer("rmem_max"), check_buffer("wmem_max"),
            check_open_files(), check_direct()};
}

}  // namespace ndv::soft

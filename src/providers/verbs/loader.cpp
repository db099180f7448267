// SPDX-License-Identifier: Apache-2.0
// Finds the functions of abi/functions.hpp, and forwards to them.
#include "providers/verbs/loader.hpp"

#include <dlfcn.h>

#include <cerrno>
#include <string>

#include "providers/verbs/abi/functions.hpp"

namespace ndv::verbs {
namespace {

// Written by load() before a forwarder is called, constant afterwards.
struct Table {
#define NDV_X(library, version, result, name, parameters, arguments) result(*name##_) parameters;
    NDV_VERBS_FUNCTIONS(NDV_X)
#undef NDV_X
};
constinit Table table{};

constexpr int kForkUnneeded = 2;  // IBV_FORK_UNNEEDED, which older headers lack

constexpr const char* kInstall =
    "install rdma-core; on Debian: apt-get install libibverbs1 ibverbs-providers librdmacm1";

Expected<void> load_now() {
    // Kept open for good: devices may be in use until the process is gone.
    void* const ibverbs = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);
    void* const rdmacm =
        ibverbs == nullptr ? nullptr : dlopen("librdmacm.so.1", RTLD_NOW | RTLD_LOCAL);
    if (rdmacm == nullptr) {
        const char* const reason = dlerror();
        return fail(Status::device_not_ready,
                    "the library of RDMA devices cannot be loaded: " +
                        std::string(reason == nullptr ? "no reason given" : reason),
                    kInstall);
    }
    const char* missing = nullptr;
#define NDV_X(library, version, result, name, parameters, arguments)                         \
    table.name##_ = reinterpret_cast<result(*) parameters>(dlvsym(library, #name, version)); \
    if (table.name##_ == nullptr) missing = #name;
    NDV_VERBS_FUNCTIONS(NDV_X)
#undef NDV_X
    if (missing != nullptr) {
        return fail(Status::device_not_ready,
                    "the installed rdma-core is too old: it has no " + std::string(missing),
                    "version 25 of 2019 or newer is needed");
    }
    // Memory that a device writes must not become a forked child's by copy-on-write. New kernels
    // copy it in the fork. Else libibverbs leaves pages of registered memory out of the child, with
    // all that lies in them beside it. That fails when the process has registered memory before.
    const auto fork_status = reinterpret_cast<int (*)()>(
        dlvsym(ibverbs, "ibv_is_fork_initialized", "IBVERBS_1.13"));  // rdma-core 35
    if (fork_status == nullptr || fork_status() != kForkUnneeded) {
        static_cast<void>(ibv_fork_init());
    }
    return {};
}

}  // namespace

const Expected<void>& load() {
    static const Expected<void> outcome = load_now();
    return outcome;
}

// Libraries may fail without setting errno; what an earlier call left there is no reason.
#define NDV_X(library, version, result, name, parameters, arguments) \
    result name parameters {                                         \
        errno = 0;                                                   \
        return table.name##_ arguments;                              \
    }
NDV_VERBS_FUNCTIONS(NDV_X)
#undef NDV_X

}  // namespace ndv::verbs

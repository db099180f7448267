// SPDX-License-Identifier: Apache-2.0
// What `ndverbs doctor` says about RDMA devices: each thing that can be missing, told apart.
#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>
#include <vector>

#include "base/descriptor.hpp"
#include "providers/verbs/adapter.hpp"
#include "providers/verbs/device.hpp"
#include "providers/verbs/loader.hpp"

namespace ndv::verbs {
namespace {

constexpr const char* kDevices = "/sys/class/infiniband";
constexpr rlim_t kGoodLocked = rlim_t{1} << 30U;  // less stops programs that register real arrays

std::vector<std::string> names_in(const std::string& folder) {
    std::vector<std::string> out;
    DIR* const opened = ::opendir(folder.c_str());
    if (opened == nullptr) return out;
    while (const dirent* const entry = ::readdir(opened)) {
        if (entry->d_name[0] != '.') out.emplace_back(entry->d_name);
    }
    ::closedir(opened);
    std::ranges::sort(out);
    return out;
}

std::string joined(const std::vector<std::string>& words) {
    std::string out;
    for (const std::string& word : words) out += (out.empty() ? "" : ", ") + word;
    return out;
}

core::Finding check_file(const std::string& path, const std::string& module) {
    const base::Descriptor opened(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (opened) return {path, true, "can be opened", ""};
    const int os_error = errno;
    std::string remedy =
        "load the kernel module " + module + "; in a container, pass " + path + " through";
    if (os_error == EACCES || os_error == EPERM) {
        remedy = "allow this user to read and write it (udev's group is usually rdma)";
    }
    return {path, false, std::generic_category().message(os_error), std::move(remedy)};
}

core::Finding check_locked_memory() {
    rlimit limit{};
    static_cast<void>(::getrlimit(RLIMIT_MEMLOCK, &limit));
    // With the capability to lock memory, which root has, the limit does not count.
    const bool is_free = limit.rlim_cur == RLIM_INFINITY || ::geteuid() == 0;
    const bool is_good = is_free || limit.rlim_cur >= kGoodLocked;
    return {
        "locked memory", is_good,
        is_free ? "unlimited" : std::to_string(limit.rlim_cur >> 10U) + " KiB can be registered",
        is_good ? ""
                : "raise it: ulimit -l unlimited, memlock in limits.conf, or "
                  "LimitMEMLOCK=infinity of a systemd service"};
}

core::Finding check_device(const std::string& name) {
    const std::vector<std::string> driven = Device::names();
    if (std::ranges::find(driven, name) == driven.end()) {
        return {"device " + name, false, "the installed libraries have no driver for it",
                "install the driver; on Debian: apt-get install ibverbs-providers"};
    }
    auto device = Device::open(name);
    if (!device) return {"device " + name, false, device.error().what, device.error().hint};
    std::string what =
        (*device)->info().rdma_technology + ", port " + std::to_string((*device)->port());
    std::string remedy;
    if (!(*device)->is_active()) {
        what += " not active";
        remedy = "bring its network interface up (ip link set ... up)";
    } else if (!(*device)->has_queue_pairs()) {
        what += " active, but it has no queue pairs of the kind that connections need";
        remedy = "use the soft adapter over its network interface";
    } else if ((*device)->info().addresses.empty()) {
        what += " active, but without an address";
        remedy = "give its network interface one (ip addr add ...; InfiniBand: IPoIB)";
    } else {
        what += " active";
    }
    return {"device " + name, remedy.empty(), std::move(what), std::move(remedy)};
}

}  // namespace

std::vector<core::Finding> VerbsProvider::diagnose() const {
    std::vector<core::Finding> out;
    const Expected<void>& loaded = load();
    out.push_back({"rdma-core", loaded.has_value(),
                   loaded ? "libibverbs and librdmacm are there" : loaded.error().what,
                   loaded ? "" : loaded.error().hint});
    const std::vector<std::string> devices = names_in(kDevices);
    out.push_back(
        {"RDMA devices of the kernel", !devices.empty(), devices.empty() ? "none" : joined(devices),
         devices.empty() ? "without a device the soft adapter works over any network; for "
                           "a software device: modprobe rdma_rxe; rdma link add rxe0 type "
                           "rxe netdev eth0"
                         : ""});
    if (devices.empty()) return out;
    for (const std::string& file : names_in("/sys/class/infiniband_verbs")) {
        if (file.starts_with("uverbs")) {
            out.push_back(check_file("/dev/infiniband/" + file, "ib_uverbs"));
        }
    }
    out.push_back(check_file("/dev/infiniband/rdma_cm", "rdma_ucm"));
    out.push_back(check_locked_memory());
    if (loaded) {
        for (const std::string& name : devices) out.push_back(check_device(name));
    }
    return out;
}

}  // namespace ndv::verbs

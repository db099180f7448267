// SPDX-License-Identifier: Apache-2.0
// Opening devices and reading what they can do.
#include "providers/verbs/device.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <system_error>
#include <utility>

#include "base/log.hpp"
#include "core/address.hpp"
#include "core/mapping.hpp"
#include "providers/verbs/cm.hpp"
#include "providers/verbs/loader.hpp"

namespace ndv::verbs {
namespace {

// What rdma_cm carries at most (rdma_connect(3), rdma_accept(3), rdma_reject(3)). On iWARP the
// kernel's own iWARP stack counts the length, four bytes of RFC 6581 included, in eight bits.
constexpr std::uint32_t kMaxCallerData = 56;
constexpr std::uint32_t kMaxCalleeData = 148;
constexpr std::uint32_t kMaxIwarpData = 251;
constexpr int kMaxReadLimit = 255;  // eight bits in rdma_conn_param
// Inline data that a device cannot take by itself travels through registered memory of ours.
constexpr std::uint32_t kMaxInline = 4096;
constexpr std::uint32_t kMaxSegments = 64;  // as many as core checks at once
// The kernel's iWARP stack counts bytes of a request in a signed number.
constexpr std::uint32_t kMaxIwarpLength = 0x7FFFFFFF;
// From here a Read or Write beats a Send into a posted buffer on common devices.
constexpr std::uint32_t kLargeRequest = 8192;

constexpr std::uint64_t kMaxWindow = std::uint64_t{1} << 31U;  // of common devices
// NDK: the number of pages with which most regions can be had. Ours cost no pages.
constexpr std::uint32_t kFastRegisterPages = 256;

constexpr std::uint32_t kVendorSiw = 0x626D74;
constexpr std::uint32_t kVendorRxe = 0xFFFFFF;

Quirks quirks_of(std::uint32_t vendor) {
    Quirks quirks;
    if (vendor == kVendorSiw) {
        quirks.takes_empty_receives = false;
        quirks.invalidates_for_peers = false;
        quirks.has_query_qp = false;
        quirks.completes_in_order = false;
        quirks.has_solicited_interrupts = false;
        quirks.misreads_a_page = true;
    }
    if (vendor == kVendorRxe) {
        quirks.has_kernel_wc_flags = true;
        quirks.has_length_errors = false;
        quirks.bounds_windows = false;
    }
    return quirks;
}

class DeviceList {
public:
    DeviceList() : devices_(ibv_get_device_list(&count_)) {}
    DeviceList(const DeviceList&) = delete;
    DeviceList& operator=(const DeviceList&) = delete;
    ~DeviceList() {
        if (devices_ != nullptr) ibv_free_device_list(devices_);
    }
    [[nodiscard]] ibv_device** begin() const { return devices_; }
    [[nodiscard]] ibv_device** end() const {
        return devices_ == nullptr ? nullptr : devices_ + count_;
    }

private:
    int count_ = 0;
    ibv_device** devices_;
};

std::uint32_t unsigned_of(int value) { return static_cast<std::uint32_t>(std::max(value, 0)); }

std::uint32_t below(int value, std::uint32_t most) { return std::min(unsigned_of(value), most); }

Expected<std::shared_ptr<Device>> open_one(ibv_device* device, AddressBook& book) {
    const std::string name = ibv_get_device_name(device);
    ibv_context* const context = ibv_open_device(device);
    if (context != nullptr) return std::make_shared<Device>(context, book.of(name));
    int os_error = errno;
    // The library looks elsewhere when the file cannot be opened, and leaves that search's errno.
    const std::string file = std::string("/dev/infiniband/") + device->dev_name;
    if (::access(file.c_str(), R_OK | W_OK) != 0 && errno != ENOENT) os_error = errno;
    if (os_error == EACCES || os_error == EPERM) {
        return fail(Status::access_denied, "open: no permission on " + file + ", device " + name,
                    "allow this user to read and write /dev/infiniband/* (udev's group is usually "
                    "rdma); in a container, pass the devices through",
                    os_error);
    }
    return fail(
        Status::device_not_ready,
        "open: device " + name + " cannot be opened: " + std::generic_category().message(os_error),
        "run `ndverbs doctor`", os_error);
}

void log_passed_over(const Error& error) {
    base::log(base::LogLevel::info, "verbs", "a device is passed over: " + error.what);
}

// Attributes promise windows, and say nothing of resizing or kinds of queue pairs; drivers may lack
// each.
struct Abilities {
    bool has_queue_pairs = false;
    bool has_windows = false;
    bool resizes_queues = false;
};

Abilities try_out(ibv_context* context) {
    Abilities out;
    ibv_pd* const pd = ibv_alloc_pd(context);
    ibv_cq* const cq = ibv_create_cq(context, 1, nullptr, nullptr, 0);
    if (pd != nullptr && cq != nullptr) {
        ibv_qp_init_attr wanted{};
        wanted.send_cq = wanted.recv_cq = cq;
        wanted.qp_type = IBV_QPT_RC;
        wanted.cap = {1, 1, 1, 1, 0};
        if (ibv_qp* const qp = ibv_create_qp(pd, &wanted)) {
            out.has_queue_pairs = true;
            ibv_destroy_qp(qp);
        }
    }
    if (pd != nullptr) {
        if (ibv_mw* const mw = ibv_alloc_mw(pd, IBV_MW_TYPE_2)) {
            out.has_windows = true;
            ibv_dealloc_mw(mw);
        }
        ibv_dealloc_pd(pd);
    }
    if (cq != nullptr) {
        out.resizes_queues = ibv_resize_cq(cq, 64) == 0;
        ibv_destroy_cq(cq);
    }
    return out;
}

}  // namespace

Unexpected verb_failed(const std::string& what, int os_error) {
    Status status = core::status_of(os_error);
    std::string hint;
    rlimit limit{};
    if (os_error == EINVAL) status = Status::invalid_parameter;
    if (os_error == EOPNOTSUPP || os_error == ENOSYS) status = Status::not_supported;
    if (os_error == ENOMEM && ::getrlimit(RLIMIT_MEMLOCK, &limit) == 0 &&
        limit.rlim_cur != RLIM_INFINITY) {
        hint = "this process may lock " + std::to_string(limit.rlim_cur >> 10U) +
               " KiB of memory: raise it (ulimit -l unlimited, or memlock in limits.conf)";
    }
    const std::string reason =
        os_error == 0 ? "the driver gives no reason" : std::generic_category().message(os_error);
    return fail(status, what + " failed: " + reason, std::move(hint), os_error);
}

std::vector<std::string> Device::names() {
    std::vector<std::string> out;
    if (!load()) return out;
    for (ibv_device* const device : DeviceList()) out.emplace_back(ibv_get_device_name(device));
    return out;
}

Expected<std::shared_ptr<Device>> Device::open(const std::string& name) {
    if (const auto& loaded = load(); !loaded) return Unexpected{loaded.error()};
    const DeviceList list;
    AddressBook book;
    std::shared_ptr<Device> best;
    std::optional<Error> refused;
    std::string known;
    for (ibv_device* const device : list) {
        const std::string found = ibv_get_device_name(device);
        known += (known.empty() ? "" : ", ") + found;
        if (!name.empty()) {
            if (found == name) return open_one(device, book);
            continue;
        }
        auto opened = open_one(device, book);
        if (!opened) {
            log_passed_over(opened.error());
            if (!refused) refused = opened.error();
            continue;
        }
        if ((*opened)->is_usable()) return opened;
        if (!best || ((*opened)->is_active() && !best->is_active())) best = *opened;
    }
    if (best) return best;
    if (refused) return Unexpected{std::move(*refused)};
    if (known.empty()) {
        return fail(Status::device_not_ready, "open: there is no RDMA device that can be used",
                    "run `ndverbs doctor`; without a device, the soft adapter works anywhere");
    }
    return fail(Status::invalid_parameter, "open: there is no RDMA device \"" + name + "\"",
                "this machine has: " + known);
}

std::vector<std::shared_ptr<Device>> Device::open_all() {
    std::vector<std::shared_ptr<Device>> out;
    if (!load()) return out;
    AddressBook book;
    for (ibv_device* const device : DeviceList()) {
        auto opened = open_one(device, book);
        if (opened) {
            out.push_back(std::move(*opened));
        } else {
            log_passed_over(opened.error());
        }
    }
    return out;
}

Device::Device(ibv_context* context, std::vector<std::string> addresses) : context_(context) {
    info_.addresses = std::move(addresses);
    base::register_descriptor(context_->cmd_fd);
    base::register_descriptor(context_->async_fd);
    read_attributes();
}

Device::~Device() {
    if (is_foreign()) return;
    base::forget_descriptor(context_->cmd_fd);
    base::forget_descriptor(context_->async_fd);
    if (cover_ != nullptr) ibv_destroy_cq(cover_);
    ibv_close_device(context_);
}

void Device::read_attributes() {
    name_ = ibv_get_device_name(context_->device);
    is_iwarp_ = context_->device->transport_type == IBV_TRANSPORT_IWARP;
    ibv_device_attr device{};
    static_cast<void>(ibv_query_device(context_, &device));
    ibv_port_attr port{};
    for (std::uint8_t number = device.phys_port_cnt; number >= 1; --number) {
        ibv_port_attr seen{};
        if (ibv_query_port(context_, number, &seen) != 0) continue;
        // The first active one wins, else the first.
        if (seen.state == IBV_PORT_ACTIVE || !is_active_) {
            port = seen;
            port_ = number;
            is_active_ = seen.state == IBV_PORT_ACTIVE;
        }
    }
    quirks_ = quirks_of(device.vendor_id);
    max_cq_entries_ = unsigned_of(device.max_cqe);

    info_.name = "verbs:" + name_;
    info_.provider = "verbs";
    info_.vendor_id = device.vendor_id;
    info_.device_id = device.vendor_part_id;
    info_.max_registration_size = std::min<std::uint64_t>(device.max_mr_size, 1ULL << 47U);
    info_.max_initiator_request_sge = below(device.max_sge, kMaxSegments);
    info_.max_receive_request_sge = below(device.max_sge, kMaxSegments);
    info_.max_read_request_sge =
        std::max(1U, std::min(below(device.max_sge, kMaxSegments), unsigned_of(device.max_sge_rd)));
    info_.max_transfer_length = port.max_msg_sz == 0 ? kMaxIwarpLength : port.max_msg_sz;
    if (is_iwarp_) info_.max_transfer_length = std::min(info_.max_transfer_length, kMaxIwarpLength);
    info_.max_inline_data_size = kMaxInline;
    info_.max_inbound_read_limit = unsigned_of(std::min(device.max_qp_rd_atom, kMaxReadLimit));
    info_.max_outbound_read_limit =
        unsigned_of(std::min(device.max_qp_init_rd_atom, kMaxReadLimit));
    info_.max_receive_queue_depth = unsigned_of(device.max_qp_wr);
    // One place for the request that wakes a flushed queue.
    info_.max_initiator_queue_depth = unsigned_of(device.max_qp_wr - 1);
    info_.max_cq_depth = max_cq_entries_;
    info_.large_request_threshold = kLargeRequest;
    info_.max_caller_data = is_iwarp_ ? kMaxIwarpData : kMaxCallerData;
    info_.max_callee_data = is_iwarp_ ? kMaxIwarpData : kMaxCalleeData;
    info_.adapter_flags =
        core::adapter_flag::kMultiEngine | core::adapter_flag::kLoopbackConnections;
    if (!is_iwarp_) info_.adapter_flags |= core::adapter_flag::kRdmaReadSinkNotRequired;
    info_.rdma_technology = is_iwarp_                                    ? "iWARP"
                            : port.link_layer == IBV_LINK_LAYER_ETHERNET ? "RoCE"
                                                                         : "InfiniBand";
    if (quirks_.misreads_a_page) cover_misread_page();
    read_optional(device);
}

// libsiw knows a failed mapping of a queue by the offset 0x90000, which the kernel gives out like
// any other, to the first queue that fits there: from then on no queue can be made. So a queue of
// ours, made while all offsets are free, lies over it: behind another one that only fills the room
// before. Without it the device works, for as long as it has few queues.
void Device::cover_misread_page() {
    // An entry has 32 bytes, and a queue some more: 129 pages of 4 KiB, and 17 behind them. Larger
    // pages are rare: 516 KiB do for all of them.
    const bool is_small = core::page_size() == 4096;
    ibv_cq* const filler = ibv_create_cq(context_, is_small ? 16384 : 8192, nullptr, nullptr, 0);
    if (filler == nullptr) return;
    cover_ = ibv_create_cq(context_, is_small ? 2048 : 16384, nullptr, nullptr, 0);
    ibv_destroy_cq(filler);
}

// What NDK leaves to the adapter, and what is ours and needs something of the device.
void Device::read_optional(const ibv_device_attr& device) {
    constexpr unsigned kTypes = IBV_DEVICE_MEM_WINDOW_TYPE_2A | IBV_DEVICE_MEM_WINDOW_TYPE_2B;
    const Abilities abilities = try_out(context_);
    has_queue_pairs_ = abilities.has_queue_pairs;
    const bool invalidates = (device.device_cap_flags & IBV_DEVICE_MEM_MGT_EXTENSIONS) != 0 &&
                             quirks_.invalidates_for_peers;
    const bool has_windows = invalidates && (device.device_cap_flags & kTypes) != 0 &&
                             device.max_mw > 0 && abilities.has_windows;
    info_.features = {"control_connect_events", "create_shared_endpoint", "build_lam",
                      "privileged_token"};
    if (invalidates) info_.features.emplace_back("send_and_invalidate");
    if (has_windows) {
        info_.features.emplace_back("create_mw");
        info_.max_window_size = std::min(info_.max_registration_size, kMaxWindow);
    }
    // Its windows are over memory without remote rights, which no iWARP device reads into.
    if (has_windows && !is_iwarp_) {
        info_.features.emplace_back("create_fast_register_mr");
        info_.frmr_page_count = kFastRegisterPages;
        info_.adapter_flags |= core::adapter_flag::kRdmaReadLocalInvalidate;
    }
    info_.extensions = core::extension::kRawHandles;
    // RFC 7306 has both for iWARP, but its devices' drivers do not.
    if (!is_iwarp_) info_.extensions |= core::extension::kImmediate;
    if (!is_iwarp_ && device.atomic_cap != IBV_ATOMIC_NONE) {
        info_.extensions |= core::extension::kAtomics;
    }
    info_.max_srq_depth = device.max_srq > 0 ? unsigned_of(device.max_srq_wr) : 0;
    info_.adapter_flags |= core::adapter_flag::kCqInterruptModeration;
    if (abilities.resizes_queues) info_.adapter_flags |= core::adapter_flag::kCqResize;
}

}  // namespace ndv::verbs

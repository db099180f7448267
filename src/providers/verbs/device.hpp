// SPDX-License-Identifier: Apache-2.0
// An opened RDMA device, what it can do, and owners of its handles. In a forked child owners leave
// their handles alone: they are the parent's.
#pragma once

#include <cerrno>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/expected.hpp"
#include "base/fork.hpp"
#include "core/types.hpp"
#include "providers/verbs/abi/functions.hpp"

namespace ndv::verbs {

// What differs between devices and no attribute says.
struct Quirks {
    bool takes_empty_receives = true;
    // Peers' Sends with Invalidate: checked, executed and reported.
    bool invalidates_for_peers = true;
    bool has_query_qp = true;
    // Interrupts for solicited completions and errors only.
    bool has_solicited_interrupts = true;
    bool completes_in_order = true;  // else a Send or Write may overtake a Read before it
    bool has_length_errors = true;   // for a message that is longer than its receive
    // A window reaches no further than it was bound, though its region does.
    bool bounds_windows = true;
    bool has_kernel_wc_flags = false;  // a receive's WITH_INV shows as the kernel's own bit
    // The driver takes a queue whose mapping begins at one certain page for a failure.
    bool misreads_a_page = false;
};

class Device {
public:
    // By the kernel's name ("mlx5_0"); empty: the first that connections can be made with, else the
    // first with an active port, else the first; those that cannot be opened are passed over.
    [[nodiscard]] static Expected<std::shared_ptr<Device>> open(const std::string& name);
    // All that can be opened.
    [[nodiscard]] static std::vector<std::shared_ptr<Device>> open_all();
    // Names of the devices that the installed libraries can drive.
    [[nodiscard]] static std::vector<std::string> names();

    // `addresses`: those that rdma_cm binds to the device.
    Device(ibv_context* context, std::vector<std::string> addresses);
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;
    ~Device();

    [[nodiscard]] ibv_context* get() const { return context_; }
    [[nodiscard]] const std::string& name() const { return name_; }
    [[nodiscard]] const core::AdapterInfo& info() const { return info_; }
    [[nodiscard]] bool is_iwarp() const { return is_iwarp_; }
    [[nodiscard]] bool is_active() const { return is_active_; }
    // What connections need: an active port, an address that rdma_cm knows, and reliable-connected
    // queue pairs, which some devices (EFA, usnic) lack.
    [[nodiscard]] bool is_usable() const {
        return is_active_ && has_queue_pairs_ && !info_.addresses.empty();
    }
    [[nodiscard]] bool has_queue_pairs() const { return has_queue_pairs_; }
    [[nodiscard]] std::uint8_t port() const { return port_; }
    [[nodiscard]] const Quirks& quirks() const { return quirks_; }
    [[nodiscard]] std::uint32_t max_cq_entries() const { return max_cq_entries_; }
    [[nodiscard]] bool is_foreign() const { return made_in_ != base::fork_generation(); }

private:
    void read_attributes();
    void read_optional(const ibv_device_attr& device);
    void cover_misread_page();

    ibv_context* const context_;
    const unsigned made_in_ = base::fork_generation();
    std::string name_;
    core::AdapterInfo info_;
    Quirks quirks_;
    bool is_iwarp_ = false;
    bool is_active_ = false;
    bool has_queue_pairs_ = false;
    std::uint8_t port_ = 1;
    std::uint32_t max_cq_entries_ = 0;
    ibv_cq* cover_ = nullptr;  // lies over the page that the driver misreads
};

// The sentence for a verb that failed: what, why, and what to do when it is the locked memory. An
// `os_error` of 0: the library gave no reason.
[[nodiscard]] Unexpected verb_failed(const std::string& what, int os_error);

// Why a descriptor of the device has no event: false when the device was removed, and there will be
// none.
[[nodiscard]] inline bool is_event_awaited(int os_error) {
    return os_error == EAGAIN || os_error == EINTR;
}

// Owns a handle of the device; destroys it with `kDestroy`.
template <typename T, int (*kDestroy)(T*)>
class Owner {
public:
    Owner(std::shared_ptr<Device> device, T* handle)
        : device_(std::move(device)), handle_(handle) {}
    Owner(const Owner&) = delete;
    Owner& operator=(const Owner&) = delete;
    ~Owner() {
        if (!device_->is_foreign()) kDestroy(handle_);
    }
    [[nodiscard]] T* get() const { return handle_; }
    [[nodiscard]] const std::shared_ptr<Device>& device() const { return device_; }

private:
    const std::shared_ptr<Device> device_;
    T* const handle_;
};

using OwnedDomain = Owner<ibv_pd, ibv_dealloc_pd>;

}  // namespace ndv::verbs

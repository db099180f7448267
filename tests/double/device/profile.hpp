// SPDX-License-Identifier: Apache-2.0
// What the double's devices are like: one row for each, with the source of each habit.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "abi.hpp"

namespace ndv::doubles {

struct Port {
    ibv_port_state state;
    std::vector<std::string_view> addresses;  // those of its network interface; each is a GID, too
};

struct Profile {
    std::string_view name;
    ibv_transport_type transport;
    std::uint8_t link_layer;
    std::uint32_t vendor;
    std::uint32_t part;
    std::vector<Port> ports;

    bool has_reliable_connections = true;
    std::uint32_t max_depth = 8192;
    std::uint32_t max_cq_entries = 65535;
    std::uint32_t max_sge = 16;
    std::uint32_t max_read_sge = 16;
    std::uint32_t max_inline = 512;  // more: create_qp fails
    std::uint32_t least_inline = 0;  // create_qp grants at least so much
    bool rounds_up = true;           // depths become powers of two
    std::uint32_t max_reads = 16;    // in flight to and from one queue pair
    std::uint32_t max_message = 1U << 30U;
    bool has_windows = false;  // of type 2B
    bool invalidates = true;
    bool has_atomics = false;
    bool resizes_queues = true;
    // Fields of a failed completion that the specification leaves undefined hold anything.
    bool leaves_fields_undefined = true;
    std::uint32_t vendor_error = 0;       // in failed completions
    std::uint32_t flush_delay_us = 0;     // from the transition to the first flushed completion
    int sign_of_errors = 1;               // of what a failed post returns
    bool refuses_posts_in_error = false;  // else they are flushed
    // iWARP: what the first request ends with when the peer's Terminate is about access.
    ibv_wc_status terminated = IBV_WC_WR_FLUSH_ERR;

    [[nodiscard]] bool is_iwarp() const { return transport == IBV_TRANSPORT_IWARP; }
};

[[nodiscard]] std::span<const Profile> profiles();

}  // namespace ndv::doubles

// SPDX-License-Identifier: Apache-2.0
// Our declarations of librdmacm's types, under the rules of abi/verbs.hpp.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>

#include "providers/verbs/abi/verbs.hpp"

namespace ndv::verbs {

enum rdma_cm_event_type : unsigned {
    RDMA_CM_EVENT_ADDR_RESOLVED = 0,
    RDMA_CM_EVENT_ADDR_ERROR = 1,
    RDMA_CM_EVENT_ROUTE_RESOLVED = 2,
    RDMA_CM_EVENT_ROUTE_ERROR = 3,
    RDMA_CM_EVENT_CONNECT_REQUEST = 4,
    RDMA_CM_EVENT_CONNECT_RESPONSE = 5,
    RDMA_CM_EVENT_CONNECT_ERROR = 6,
    RDMA_CM_EVENT_UNREACHABLE = 7,
    RDMA_CM_EVENT_REJECTED = 8,
    RDMA_CM_EVENT_ESTABLISHED = 9,
    RDMA_CM_EVENT_DISCONNECTED = 10,
    RDMA_CM_EVENT_DEVICE_REMOVAL = 11,
    RDMA_CM_EVENT_MULTICAST_JOIN = 12,
    RDMA_CM_EVENT_MULTICAST_ERROR = 13,
    RDMA_CM_EVENT_ADDR_CHANGE = 14,
    RDMA_CM_EVENT_TIMEWAIT_EXIT = 15,
};

enum rdma_port_space : unsigned { RDMA_PS_TCP = 0x0106 };

inline constexpr int RDMA_OPTION_ID = 0;
inline constexpr int RDMA_OPTION_ID_REUSEADDR = 1;
inline constexpr int RDMA_OPTION_ID_AFONLY = 2;

// ---- what we make ---------------------------------------------------------------------------

struct rdma_conn_param {
    const void* private_data;
    std::uint8_t private_data_len;
    std::uint8_t responder_resources;
    std::uint8_t initiator_depth;
    std::uint8_t flow_control;
    std::uint8_t retry_count;
    std::uint8_t rnr_retry_count;
    std::uint8_t srq;
    std::uint32_t qp_num;
};

// ---- what the library makes -----------------------------------------------------------------

struct rdma_event_channel {
    int fd;
};

struct rdma_addr {
    union {
        sockaddr src_addr;
        sockaddr_storage src_storage;
    };
    union {
        sockaddr dst_addr;
        sockaddr_storage dst_storage;
    };
};

struct rdma_route {
    rdma_addr addr;
};

struct rdma_cm_id {
    ibv_context* verbs;
    rdma_event_channel* channel;
    void* context;
    ibv_qp* qp;
    rdma_route route;
};

struct rdma_cm_event {
    rdma_cm_id* id;
    rdma_cm_id* listen_id;
    rdma_cm_event_type event;
    int status;
    union {
        rdma_conn_param conn;
    } param;
};

inline sockaddr* rdma_get_local_addr(rdma_cm_id* id) { return &id->route.addr.src_addr; }
inline sockaddr* rdma_get_peer_addr(rdma_cm_id* id) { return &id->route.addr.dst_addr; }

}  // namespace ndv::verbs

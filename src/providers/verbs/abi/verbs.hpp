// SPDX-License-Identifier: Apache-2.0
// Our declarations of libibverbs' types: what this room uses of the ABI that rdma-core keeps from
// version 25 on, so that no build needs its headers. Names are rdma-core's, in our namespace. A
// structure that the library makes is declared up to the last field that we use: it may be longer,
// and we never make or copy one. Those that we make are declared in full. What we do not use is
// `unused`. tests/native/abi/rdma_core.cpp holds all of it against rdma-core's own headers.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>

namespace ndv::verbs {

// ---- constants ------------------------------------------------------------------------------

enum ibv_transport_type : int { IBV_TRANSPORT_IWARP = 1 };

enum ibv_device_cap_flags : unsigned {
    IBV_DEVICE_MEM_MGT_EXTENSIONS = 1U << 21U,
    IBV_DEVICE_MEM_WINDOW_TYPE_2A = 1U << 23U,
    IBV_DEVICE_MEM_WINDOW_TYPE_2B = 1U << 24U,
};

enum ibv_atomic_cap : unsigned { IBV_ATOMIC_NONE = 0 };

enum ibv_port_state : unsigned { IBV_PORT_ACTIVE = 4 };

inline constexpr std::uint8_t IBV_LINK_LAYER_ETHERNET = 2;

enum ibv_event_type : unsigned {
    IBV_EVENT_CQ_ERR = 0,
    IBV_EVENT_QP_FATAL = 1,
    IBV_EVENT_QP_REQ_ERR = 2,
    IBV_EVENT_QP_ACCESS_ERR = 3,
    IBV_EVENT_COMM_EST = 4,
    IBV_EVENT_SQ_DRAINED = 5,
    IBV_EVENT_PATH_MIG = 6,
    IBV_EVENT_PATH_MIG_ERR = 7,
    IBV_EVENT_DEVICE_FATAL = 8,
    IBV_EVENT_PORT_ACTIVE = 9,
    IBV_EVENT_PORT_ERR = 10,
    IBV_EVENT_LID_CHANGE = 11,
    IBV_EVENT_PKEY_CHANGE = 12,
    IBV_EVENT_SM_CHANGE = 13,
    IBV_EVENT_SRQ_ERR = 14,
    IBV_EVENT_SRQ_LIMIT_REACHED = 15,
    IBV_EVENT_QP_LAST_WQE_REACHED = 16,
    IBV_EVENT_CLIENT_REREGISTER = 17,
    IBV_EVENT_GID_CHANGE = 18,
    IBV_EVENT_WQ_FATAL = 19,
};

enum ibv_wc_status : unsigned {
    IBV_WC_SUCCESS = 0,
    IBV_WC_LOC_LEN_ERR = 1,
    IBV_WC_LOC_QP_OP_ERR = 2,
    IBV_WC_LOC_PROT_ERR = 4,
    IBV_WC_WR_FLUSH_ERR = 5,
    IBV_WC_MW_BIND_ERR = 6,
    IBV_WC_LOC_ACCESS_ERR = 8,
    IBV_WC_REM_INV_REQ_ERR = 9,
    IBV_WC_REM_ACCESS_ERR = 10,
    IBV_WC_REM_OP_ERR = 11,
    IBV_WC_RETRY_EXC_ERR = 12,
    IBV_WC_RNR_RETRY_EXC_ERR = 13,
    IBV_WC_REM_ABORT_ERR = 16,
    IBV_WC_RESP_TIMEOUT_ERR = 20,
};

enum ibv_wc_flags : unsigned { IBV_WC_WITH_IMM = 1U << 1U, IBV_WC_WITH_INV = 1U << 3U };

enum ibv_access_flags : int {
    IBV_ACCESS_LOCAL_WRITE = 1 << 0,
    IBV_ACCESS_REMOTE_WRITE = 1 << 1,
    IBV_ACCESS_REMOTE_READ = 1 << 2,
    IBV_ACCESS_REMOTE_ATOMIC = 1 << 3,
    IBV_ACCESS_MW_BIND = 1 << 4,
};

enum ibv_mw_type : unsigned { IBV_MW_TYPE_2 = 2 };

enum ibv_srq_attr_mask : int { IBV_SRQ_MAX_WR = 1 << 0, IBV_SRQ_LIMIT = 1 << 1 };

enum ibv_qp_type : unsigned { IBV_QPT_RC = 2 };

enum ibv_qp_attr_mask : int {
    IBV_QP_STATE = 1 << 0,
    IBV_QP_ACCESS_FLAGS = 1 << 3,
    IBV_QP_PKEY_INDEX = 1 << 4,
    IBV_QP_PORT = 1 << 5,
    IBV_QP_TIMEOUT = 1 << 9,
    IBV_QP_MAX_QP_RD_ATOMIC = 1 << 13,
    IBV_QP_MIN_RNR_TIMER = 1 << 15,
    IBV_QP_MAX_DEST_RD_ATOMIC = 1 << 17,
};

enum ibv_qp_state : unsigned {
    IBV_QPS_RESET = 0,
    IBV_QPS_INIT = 1,
    IBV_QPS_RTR = 2,
    IBV_QPS_RTS = 3,
    IBV_QPS_ERR = 6,
};

enum ibv_wr_opcode : unsigned {
    IBV_WR_RDMA_WRITE = 0,
    IBV_WR_RDMA_WRITE_WITH_IMM = 1,
    IBV_WR_SEND = 2,
    IBV_WR_RDMA_READ = 4,
    IBV_WR_ATOMIC_CMP_AND_SWP = 5,
    IBV_WR_ATOMIC_FETCH_AND_ADD = 6,
    IBV_WR_LOCAL_INV = 7,
    IBV_WR_BIND_MW = 8,
    IBV_WR_SEND_WITH_INV = 9,
};

enum ibv_send_flags : unsigned {
    IBV_SEND_FENCE = 1U << 0U,
    IBV_SEND_SIGNALED = 1U << 1U,
    IBV_SEND_SOLICITED = 1U << 2U,
    IBV_SEND_INLINE = 1U << 3U,
};

// ---- what we make ---------------------------------------------------------------------------

struct ibv_cq;
struct ibv_mr;
struct ibv_mw;
struct ibv_qp;
struct ibv_srq;

struct ibv_device_attr {
    char fw_ver[64];
    std::uint64_t unused_guids[2];
    std::uint64_t max_mr_size;
    std::uint64_t page_size_cap;
    std::uint32_t vendor_id;
    std::uint32_t vendor_part_id;
    std::uint32_t hw_ver;
    int max_qp;
    int max_qp_wr;
    unsigned device_cap_flags;
    int max_sge;
    int max_sge_rd;
    int max_cq;
    int max_cqe;
    int max_mr;
    int max_pd;
    int max_qp_rd_atom;
    int max_ee_rd_atom;
    int max_res_rd_atom;
    int max_qp_init_rd_atom;
    int max_ee_init_rd_atom;
    ibv_atomic_cap atomic_cap;
    int unused_datagrams[2];
    int max_mw;
    int unused_raw[8];  // raw and multicast queue pairs, address handles, fast memory regions
    int max_srq;
    int max_srq_wr;
    int max_srq_sge;
    std::uint16_t max_pkeys;
    std::uint8_t local_ca_ack_delay;
    std::uint8_t phys_port_cnt;
};

// As the function ibv_query_port fills it in every version: rdma-core's later fields lie behind.
struct ibv_port_attr {
    ibv_port_state state;
    unsigned unused_mtus[2];
    int gid_tbl_len;
    std::uint32_t port_cap_flags;
    std::uint32_t max_msg_sz;
    std::uint32_t unused_counters[2];
    std::uint16_t unused_identifiers[3];
    std::uint8_t unused_link[8];
    std::uint8_t link_layer;
    std::uint8_t flags;
};

struct ibv_async_event {
    union {
        ibv_cq* cq;
        ibv_qp* qp;
        ibv_srq* srq;
        int port_num;
    } element;
    ibv_event_type event_type;
};

struct ibv_wc {
    std::uint64_t wr_id;
    ibv_wc_status status;
    unsigned unused_opcode;
    std::uint32_t vendor_err;
    std::uint32_t byte_len;
    union {
        std::uint32_t imm_data;  // in network order
        std::uint32_t invalidated_rkey;
    };
    std::uint32_t qp_num;
    std::uint32_t src_qp;
    unsigned wc_flags;
    std::uint16_t unused_identifiers[2];
    std::uint8_t unused_path[2];
};

struct ibv_srq_attr {
    std::uint32_t max_wr;
    std::uint32_t max_sge;
    std::uint32_t srq_limit;
};

struct ibv_srq_init_attr {
    void* srq_context;
    ibv_srq_attr attr;
};

struct ibv_qp_cap {
    std::uint32_t max_send_wr;
    std::uint32_t max_recv_wr;
    std::uint32_t max_send_sge;
    std::uint32_t max_recv_sge;
    std::uint32_t max_inline_data;
};

struct ibv_qp_init_attr {
    void* qp_context;
    ibv_cq* send_cq;
    ibv_cq* recv_cq;
    ibv_srq* srq;
    ibv_qp_cap cap;
    ibv_qp_type qp_type;
    int sq_sig_all;
};

// rdma_cm fills paths in, and the library reads them.
struct alignas(8) ibv_ah_attr {
    std::byte unused[32];
};

struct ibv_qp_attr {
    ibv_qp_state qp_state;
    ibv_qp_state cur_qp_state;
    unsigned unused_path[2];
    std::uint32_t qkey;
    std::uint32_t rq_psn;
    std::uint32_t sq_psn;
    std::uint32_t dest_qp_num;
    unsigned qp_access_flags;
    ibv_qp_cap cap;
    ibv_ah_attr ah_attr;
    ibv_ah_attr alt_ah_attr;
    std::uint16_t pkey_index;
    std::uint16_t alt_pkey_index;
    std::uint8_t en_sqd_async_notify;
    std::uint8_t sq_draining;
    std::uint8_t max_rd_atomic;
    std::uint8_t max_dest_rd_atomic;
    std::uint8_t min_rnr_timer;
    std::uint8_t port_num;
    std::uint8_t timeout;
    std::uint8_t retry_cnt;
    std::uint8_t rnr_retry;
    std::uint8_t alt_port_num;
    std::uint8_t alt_timeout;
    std::uint32_t rate_limit;
};

struct ibv_sge {
    std::uint64_t addr;
    std::uint32_t length;
    std::uint32_t lkey;
};

struct ibv_mw_bind_info {
    ibv_mr* mr;
    std::uint64_t addr;
    std::uint64_t length;
    unsigned mw_access_flags;
};

struct ibv_send_wr {
    std::uint64_t wr_id;
    ibv_send_wr* next;
    ibv_sge* sg_list;
    int num_sge;
    ibv_wr_opcode opcode;
    unsigned send_flags;
    union {
        std::uint32_t imm_data;  // in network order
        std::uint32_t invalidate_rkey;
    };
    union {
        struct {
            std::uint64_t remote_addr;
            std::uint32_t rkey;
        } rdma;
        struct {
            std::uint64_t remote_addr;
            std::uint64_t compare_add;
            std::uint64_t swap;
            std::uint32_t rkey;
        } atomic;
    } wr;
    std::uint32_t unused_remote_srqn;
    struct {
        ibv_mw* mw;
        std::uint32_t rkey;
        ibv_mw_bind_info bind_info;
    } bind_mw;
};

struct ibv_recv_wr {
    std::uint64_t wr_id;
    ibv_recv_wr* next;
    ibv_sge* sg_list;
    int num_sge;
};

// ---- what the library makes -----------------------------------------------------------------

struct ibv_context;

struct ibv_device {
    void* unused_operations[2];
    int unused_node_type;
    ibv_transport_type transport_type;
    char name[64];
    char dev_name[64];  // of the file in /dev/infiniband
};

struct ibv_pd {
    ibv_context* context;
};

struct ibv_comp_channel {
    ibv_context* context;
    int fd;
};

struct ibv_cq {
    ibv_context* context;
};

struct ibv_srq {
    ibv_context* context;
};

struct ibv_mr {
    ibv_context* context;
    ibv_pd* pd;
    void* addr;
    std::size_t length;
    std::uint32_t handle;
    std::uint32_t lkey;
    std::uint32_t rkey;
};

struct ibv_mw {
    ibv_context* context;
    ibv_pd* pd;
    std::uint32_t rkey;
};

struct ibv_qp {
    ibv_context* context;
    void* qp_context;
    ibv_pd* pd;
    ibv_cq* send_cq;
    ibv_cq* recv_cq;
    ibv_srq* srq;
    std::uint32_t handle;
    std::uint32_t qp_num;
};

// The calls that go to the driver without the library.
struct ibv_context_ops {
    void* unused_objects[7];
    ibv_mw* (*alloc_mw)(ibv_pd*, ibv_mw_type);
    void* unused_bind_mw;
    int (*dealloc_mw)(ibv_mw*);
    void* unused_create_cq;
    int (*poll_cq)(ibv_cq*, int count, ibv_wc*);
    int (*req_notify_cq)(ibv_cq*, int solicited_only);
    void* unused_queues[7];
    int (*post_srq_recv)(ibv_srq*, ibv_recv_wr*, ibv_recv_wr** refused);
    void* unused_queue_pairs[4];
    int (*post_send)(ibv_qp*, ibv_send_wr*, ibv_send_wr** refused);
    int (*post_recv)(ibv_qp*, ibv_recv_wr*, ibv_recv_wr** refused);
    void* unused_datagrams[5];
};

struct ibv_context {
    ibv_device* device;
    ibv_context_ops ops;
    int cmd_fd;
    int async_fd;
};

// ---- the driver's calls ---------------------------------------------------------------------

inline ibv_mw* ibv_alloc_mw(ibv_pd* pd, ibv_mw_type type) {
    if (pd->context->ops.alloc_mw == nullptr) {
        errno = EOPNOTSUPP;
        return nullptr;
    }
    return pd->context->ops.alloc_mw(pd, type);
}
inline int ibv_dealloc_mw(ibv_mw* mw) { return mw->context->ops.dealloc_mw(mw); }

inline int ibv_poll_cq(ibv_cq* cq, int count, ibv_wc* done) {
    return cq->context->ops.poll_cq(cq, count, done);
}
inline int ibv_req_notify_cq(ibv_cq* cq, int solicited_only) {
    return cq->context->ops.req_notify_cq(cq, solicited_only);
}
inline int ibv_post_send(ibv_qp* qp, ibv_send_wr* first, ibv_send_wr** refused) {
    return qp->context->ops.post_send(qp, first, refused);
}
inline int ibv_post_recv(ibv_qp* qp, ibv_recv_wr* first, ibv_recv_wr** refused) {
    return qp->context->ops.post_recv(qp, first, refused);
}
inline int ibv_post_srq_recv(ibv_srq* srq, ibv_recv_wr* first, ibv_recv_wr** refused) {
    return srq->context->ops.post_srq_recv(srq, first, refused);
}

// The next key of a window: its low eight bits are the consumer's, and count up.
inline std::uint32_t ibv_inc_rkey(std::uint32_t key) {
    return (key & 0xFFFFFF00U) | ((key + 1) & 0xFFU);
}

}  // namespace ndv::verbs

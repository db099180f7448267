// SPDX-License-Identifier: Apache-2.0
// The table of devices. Sources are functions of rdma-core (providers/...) and of Linux
// (drivers/infiniband/...); what has none is an invention that the specification allows.
#include "profile.hpp"

namespace ndv::doubles {
namespace {

// As ConnectX-5 on InfiniBand. providers/mlx5/verbs.c: mlx5_calc_sq_size, mlx5_calc_rq_size round
// to powers of two, mlx5_calc_send_wqe and mlx5_calc_sq_size give more inline data than asked for,
// and refuse with EINVAL what a descriptor cannot hold; cq.c: mlx5_handle_error_cqe fills wr_id,
// status and vendor error alone; hw/mlx5/mr.c: mlx5_ib_alloc_mw has type 2. A responder without
// places for a Read answers with a NAK (InfiniBand architecture, 9.7.5.1.2, C9-148). The delay of
// the flush, which firmware does, is an invention.
Profile ib() {
    Profile p{"double_ib",
              IBV_TRANSPORT_IB,
              IBV_LINK_LAYER_INFINIBAND,
              0x02C9,
              4119,
              {{IBV_PORT_ACTIVE, {"127.1.1.1", "2001:db8:1::1", "127.1.1.2"}}}};
    p.max_depth = 32768;
    p.max_cq_entries = (1U << 22U) - 1;
    p.max_sge = 30;
    p.max_read_sge = 30;
    p.max_inline = 828;
    p.least_inline = 60;
    p.has_windows = true;
    p.has_atomics = true;
    p.vendor_error = 0x88;
    p.flush_delay_us = 20'000;
    return p;
}

// As an E810 in iWARP mode. providers/irdma/uverbs.c: irdma_ucreate_qp refuses what exceeds
// max_hw_inline (101 bytes), irdma_flush_err_to_ib_wc_status passes the reason of a Terminate on,
// irdma_upost_send returns positive numbers; hw/irdma/verbs.c: irdma_query_device.
Profile irdma() {
    Profile p{"double_irdma",
              IBV_TRANSPORT_IWARP,
              IBV_LINK_LAYER_ETHERNET,
              0x8086,
              0x1592,
              {{IBV_PORT_ACTIVE, {"127.1.2.1", "2001:db8:2::1", "127.1.2.2"}}}};
    p.max_depth = 4094;
    p.max_cq_entries = 1048574;
    p.max_sge = 13;
    p.max_read_sge = 13;
    p.max_inline = 101;
    p.max_reads = 127;
    p.max_message = 0x7FFFFFFF;
    p.terminated = IBV_WC_REM_ACCESS_ERR;
    p.vendor_error = 0x0002'0102;
    return p;
}

// As a T6. providers/cxgb4/qp.c: c4iw_post_send returns -EINVAL in error and -ENOMEM when full,
// build_immd bounds inline data when it is posted, c4iw_flush_qp makes the flushed completions, all
// with IBV_WC_WR_FLUSH_ERR; t4.h: T4_MAX_RECV_SGE, T4_MAX_QP_DEPTH; hw/cxgb4/provider.c:
// c4iw_query_device has max_sge_rd 1; no windows.
Profile cxgb4() {
    Profile p{"double_cxgb4",
              IBV_TRANSPORT_IWARP,
              IBV_LINK_LAYER_ETHERNET,
              0x1425,
              0x6401,
              {{IBV_PORT_ACTIVE, {"127.1.3.1", "2001:db8:3::1", "127.1.3.2"}}}};
    p.max_depth = 8175;
    p.max_cq_entries = 65518;
    p.max_sge = 4;
    p.max_read_sge = 1;
    p.max_inline = 64;
    p.rounds_up = false;
    p.max_reads = 32;
    p.max_message = 0x7FFFFFFF;
    p.resizes_queues = false;
    p.sign_of_errors = -1;
    p.refuses_posts_in_error = true;
    return p;
}

// As a ConnectX on Ethernet whose second port is the one in use; each address is two GIDs, one for
// each version of RoCE (Linux, core/roce_gid_mgmt.c: update_gid).
Profile roce() {
    Profile p = ib();
    p.name = "double_roce";
    p.link_layer = IBV_LINK_LAYER_ETHERNET;
    p.part = 4121;
    p.ports = {{IBV_PORT_DOWN, {}},
               {IBV_PORT_ACTIVE, {"127.1.4.1", "2001:db8:4::1", "127.1.4.2"}},
               {IBV_PORT_ACTIVE, {"127.1.5.1"}}};
    p.flush_delay_us = 0;
    return p;
}

// As EFA. providers/efa/verbs.c: efa_create_qp and create_qp_ex give UD and SRD, else EOPNOTSUPP;
// its ports are active, and rdma_cm knows no address of it.
Profile efa() {
    Profile p{"double_efa", IBV_TRANSPORT_UNSPECIFIED, IBV_LINK_LAYER_UNSPECIFIED, 0x1D0F,
              0xEFA2,       {{IBV_PORT_ACTIVE, {}}}};
    p.has_reliable_connections = false;
    p.max_depth = 4096;
    p.max_sge = 2;
    p.max_read_sge = 1;
    p.invalidates = false;
    p.resizes_queues = false;
    return p;
}

}  // namespace

std::span<const Profile> profiles() {
    // The one that can do nothing is listed first: it must be passed over.
    static const std::vector<Profile> all = {efa(), ib(), irdma(), cxgb4(), roce()};
    return all;
}

}  // namespace ndv::doubles

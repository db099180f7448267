// SPDX-License-Identifier: Apache-2.0
// Our declarations of rdma-core's ABI beside rdma-core's own headers, wherever these are installed.
// There is nothing to run: what differs does not compile.
#include <cstddef>
#include <type_traits>

#include "providers/verbs/abi/functions.hpp"
#include "providers/verbs/abi/rdma_cm.hpp"
#include "providers/verbs/abi/verbs.hpp"

// Behind ours, because these define macros.
#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>
#undef ibv_get_device_list
#undef ibv_query_port
#undef ibv_reg_mr
#undef ibv_reg_mr_iova

namespace {

namespace ours = ndv::verbs;

#define NDV_VALUE(name) static_assert(static_cast<long>(ours::name) == static_cast<long>(::name));
#define NDV_SIZE(type) static_assert(sizeof(ours::type) == sizeof(::type));
#define NDV_FIELD(type, field)                                             \
    static_assert(offsetof(ours::type, field) == offsetof(::type, field)); \
    static_assert(sizeof(ours::type::field) == sizeof(::type::field));     \
    static_assert(std::is_integral_v<decltype(ours::type::field)> ==       \
                  std::is_integral_v<decltype(::type::field)>);            \
    static_assert(std::is_signed_v<decltype(ours::type::field)> ==         \
                  std::is_signed_v<decltype(::type::field)>);
// Of an unnamed structure or union.
#define NDV_PART(type, field)                                              \
    static_assert(offsetof(ours::type, field) == offsetof(::type, field)); \
    static_assert(sizeof(decltype(ours::type{}.field)) == sizeof(decltype(::type{}.field)));

// ---- constants, and the size of their types -------------------------------------------------

NDV_SIZE(ibv_transport_type)
NDV_VALUE(IBV_TRANSPORT_IWARP)
NDV_VALUE(IBV_DEVICE_MEM_MGT_EXTENSIONS)
NDV_VALUE(IBV_DEVICE_MEM_WINDOW_TYPE_2A)
NDV_VALUE(IBV_DEVICE_MEM_WINDOW_TYPE_2B)
NDV_SIZE(ibv_atomic_cap)
NDV_VALUE(IBV_ATOMIC_NONE)
NDV_SIZE(ibv_port_state)
NDV_VALUE(IBV_PORT_ACTIVE)
NDV_VALUE(IBV_LINK_LAYER_ETHERNET)

NDV_SIZE(ibv_event_type)
NDV_VALUE(IBV_EVENT_CQ_ERR)
NDV_VALUE(IBV_EVENT_QP_FATAL)
NDV_VALUE(IBV_EVENT_QP_REQ_ERR)
NDV_VALUE(IBV_EVENT_QP_ACCESS_ERR)
NDV_VALUE(IBV_EVENT_COMM_EST)
NDV_VALUE(IBV_EVENT_SQ_DRAINED)
NDV_VALUE(IBV_EVENT_PATH_MIG)
NDV_VALUE(IBV_EVENT_PATH_MIG_ERR)
NDV_VALUE(IBV_EVENT_DEVICE_FATAL)
NDV_VALUE(IBV_EVENT_PORT_ACTIVE)
NDV_VALUE(IBV_EVENT_PORT_ERR)
NDV_VALUE(IBV_EVENT_LID_CHANGE)
NDV_VALUE(IBV_EVENT_PKEY_CHANGE)
NDV_VALUE(IBV_EVENT_SM_CHANGE)
NDV_VALUE(IBV_EVENT_SRQ_ERR)
NDV_VALUE(IBV_EVENT_SRQ_LIMIT_REACHED)
NDV_VALUE(IBV_EVENT_QP_LAST_WQE_REACHED)
NDV_VALUE(IBV_EVENT_CLIENT_REREGISTER)
NDV_VALUE(IBV_EVENT_GID_CHANGE)
NDV_VALUE(IBV_EVENT_WQ_FATAL)

NDV_SIZE(ibv_wc_status)
NDV_VALUE(IBV_WC_SUCCESS)
NDV_VALUE(IBV_WC_LOC_LEN_ERR)
NDV_VALUE(IBV_WC_LOC_QP_OP_ERR)
NDV_VALUE(IBV_WC_LOC_PROT_ERR)
NDV_VALUE(IBV_WC_WR_FLUSH_ERR)
NDV_VALUE(IBV_WC_MW_BIND_ERR)
NDV_VALUE(IBV_WC_LOC_ACCESS_ERR)
NDV_VALUE(IBV_WC_REM_INV_REQ_ERR)
NDV_VALUE(IBV_WC_REM_ACCESS_ERR)
NDV_VALUE(IBV_WC_REM_OP_ERR)
NDV_VALUE(IBV_WC_RETRY_EXC_ERR)
NDV_VALUE(IBV_WC_RNR_RETRY_EXC_ERR)
NDV_VALUE(IBV_WC_REM_ABORT_ERR)
NDV_VALUE(IBV_WC_RESP_TIMEOUT_ERR)

NDV_SIZE(ibv_wc_flags)
NDV_VALUE(IBV_WC_WITH_IMM)
NDV_VALUE(IBV_WC_WITH_INV)

NDV_SIZE(ibv_access_flags)
NDV_VALUE(IBV_ACCESS_LOCAL_WRITE)
NDV_VALUE(IBV_ACCESS_REMOTE_WRITE)
NDV_VALUE(IBV_ACCESS_REMOTE_READ)
NDV_VALUE(IBV_ACCESS_REMOTE_ATOMIC)
NDV_VALUE(IBV_ACCESS_MW_BIND)

NDV_SIZE(ibv_mw_type)
NDV_VALUE(IBV_MW_TYPE_2)

NDV_SIZE(ibv_srq_attr_mask)
NDV_VALUE(IBV_SRQ_MAX_WR)
NDV_VALUE(IBV_SRQ_LIMIT)

NDV_SIZE(ibv_qp_type)
NDV_VALUE(IBV_QPT_RC)

NDV_SIZE(ibv_qp_attr_mask)
NDV_VALUE(IBV_QP_STATE)
NDV_VALUE(IBV_QP_ACCESS_FLAGS)
NDV_VALUE(IBV_QP_PKEY_INDEX)
NDV_VALUE(IBV_QP_PORT)
NDV_VALUE(IBV_QP_TIMEOUT)
NDV_VALUE(IBV_QP_MAX_QP_RD_ATOMIC)
NDV_VALUE(IBV_QP_MIN_RNR_TIMER)
NDV_VALUE(IBV_QP_MAX_DEST_RD_ATOMIC)

NDV_SIZE(ibv_qp_state)
NDV_VALUE(IBV_QPS_RESET)
NDV_VALUE(IBV_QPS_INIT)
NDV_VALUE(IBV_QPS_RTR)
NDV_VALUE(IBV_QPS_RTS)
NDV_VALUE(IBV_QPS_ERR)

NDV_SIZE(ibv_wr_opcode)
NDV_VALUE(IBV_WR_RDMA_WRITE)
NDV_VALUE(IBV_WR_RDMA_WRITE_WITH_IMM)
NDV_VALUE(IBV_WR_SEND)
NDV_VALUE(IBV_WR_RDMA_READ)
NDV_VALUE(IBV_WR_ATOMIC_CMP_AND_SWP)
NDV_VALUE(IBV_WR_ATOMIC_FETCH_AND_ADD)
NDV_VALUE(IBV_WR_LOCAL_INV)
NDV_VALUE(IBV_WR_BIND_MW)
NDV_VALUE(IBV_WR_SEND_WITH_INV)

NDV_SIZE(ibv_send_flags)
NDV_VALUE(IBV_SEND_FENCE)
NDV_VALUE(IBV_SEND_SIGNALED)
NDV_VALUE(IBV_SEND_SOLICITED)
NDV_VALUE(IBV_SEND_INLINE)

NDV_SIZE(rdma_cm_event_type)
NDV_VALUE(RDMA_CM_EVENT_ADDR_RESOLVED)
NDV_VALUE(RDMA_CM_EVENT_ADDR_ERROR)
NDV_VALUE(RDMA_CM_EVENT_ROUTE_RESOLVED)
NDV_VALUE(RDMA_CM_EVENT_ROUTE_ERROR)
NDV_VALUE(RDMA_CM_EVENT_CONNECT_REQUEST)
NDV_VALUE(RDMA_CM_EVENT_CONNECT_RESPONSE)
NDV_VALUE(RDMA_CM_EVENT_CONNECT_ERROR)
NDV_VALUE(RDMA_CM_EVENT_UNREACHABLE)
NDV_VALUE(RDMA_CM_EVENT_REJECTED)
NDV_VALUE(RDMA_CM_EVENT_ESTABLISHED)
NDV_VALUE(RDMA_CM_EVENT_DISCONNECTED)
NDV_VALUE(RDMA_CM_EVENT_DEVICE_REMOVAL)
NDV_VALUE(RDMA_CM_EVENT_MULTICAST_JOIN)
NDV_VALUE(RDMA_CM_EVENT_MULTICAST_ERROR)
NDV_VALUE(RDMA_CM_EVENT_ADDR_CHANGE)
NDV_VALUE(RDMA_CM_EVENT_TIMEWAIT_EXIT)

NDV_SIZE(rdma_port_space)
NDV_VALUE(RDMA_PS_TCP)

NDV_VALUE(RDMA_OPTION_ID)
NDV_VALUE(RDMA_OPTION_ID_REUSEADDR)
NDV_VALUE(RDMA_OPTION_ID_AFONLY)

// ---- what we make: of the same size ---------------------------------------------------------

NDV_SIZE(ibv_device_attr)
NDV_FIELD(ibv_device_attr, fw_ver)
NDV_FIELD(ibv_device_attr, max_mr_size)
NDV_FIELD(ibv_device_attr, page_size_cap)
NDV_FIELD(ibv_device_attr, vendor_id)
NDV_FIELD(ibv_device_attr, vendor_part_id)
NDV_FIELD(ibv_device_attr, hw_ver)
NDV_FIELD(ibv_device_attr, max_qp)
NDV_FIELD(ibv_device_attr, max_qp_wr)
NDV_FIELD(ibv_device_attr, device_cap_flags)
NDV_FIELD(ibv_device_attr, max_sge)
NDV_FIELD(ibv_device_attr, max_sge_rd)
NDV_FIELD(ibv_device_attr, max_cq)
NDV_FIELD(ibv_device_attr, max_cqe)
NDV_FIELD(ibv_device_attr, max_mr)
NDV_FIELD(ibv_device_attr, max_pd)
NDV_FIELD(ibv_device_attr, max_qp_rd_atom)
NDV_FIELD(ibv_device_attr, max_ee_rd_atom)
NDV_FIELD(ibv_device_attr, max_res_rd_atom)
NDV_FIELD(ibv_device_attr, max_qp_init_rd_atom)
NDV_FIELD(ibv_device_attr, max_ee_init_rd_atom)
NDV_FIELD(ibv_device_attr, atomic_cap)
NDV_FIELD(ibv_device_attr, max_mw)
NDV_FIELD(ibv_device_attr, max_srq)
NDV_FIELD(ibv_device_attr, max_srq_wr)
NDV_FIELD(ibv_device_attr, max_srq_sge)
NDV_FIELD(ibv_device_attr, max_pkeys)
NDV_FIELD(ibv_device_attr, local_ca_ack_delay)
NDV_FIELD(ibv_device_attr, phys_port_cnt)

NDV_FIELD(ibv_port_attr, state)
NDV_FIELD(ibv_port_attr, gid_tbl_len)
NDV_FIELD(ibv_port_attr, port_cap_flags)
NDV_FIELD(ibv_port_attr, max_msg_sz)
NDV_FIELD(ibv_port_attr, link_layer)
NDV_FIELD(ibv_port_attr, flags)

NDV_SIZE(ibv_async_event)
NDV_PART(ibv_async_event, element.cq)
NDV_PART(ibv_async_event, element.qp)
NDV_PART(ibv_async_event, element.srq)
NDV_PART(ibv_async_event, element.port_num)
NDV_FIELD(ibv_async_event, event_type)

NDV_SIZE(ibv_wc)
NDV_FIELD(ibv_wc, wr_id)
NDV_FIELD(ibv_wc, status)
NDV_FIELD(ibv_wc, vendor_err)
NDV_FIELD(ibv_wc, byte_len)
NDV_FIELD(ibv_wc, imm_data)
NDV_FIELD(ibv_wc, invalidated_rkey)
NDV_FIELD(ibv_wc, qp_num)
NDV_FIELD(ibv_wc, src_qp)
NDV_FIELD(ibv_wc, wc_flags)

NDV_SIZE(ibv_srq_attr)
NDV_FIELD(ibv_srq_attr, max_wr)
NDV_FIELD(ibv_srq_attr, max_sge)
NDV_FIELD(ibv_srq_attr, srq_limit)

NDV_SIZE(ibv_srq_init_attr)
NDV_FIELD(ibv_srq_init_attr, srq_context)
NDV_FIELD(ibv_srq_init_attr, attr)

NDV_SIZE(ibv_qp_cap)
NDV_FIELD(ibv_qp_cap, max_send_wr)
NDV_FIELD(ibv_qp_cap, max_recv_wr)
NDV_FIELD(ibv_qp_cap, max_send_sge)
NDV_FIELD(ibv_qp_cap, max_recv_sge)
NDV_FIELD(ibv_qp_cap, max_inline_data)

NDV_SIZE(ibv_qp_init_attr)
NDV_FIELD(ibv_qp_init_attr, qp_context)
NDV_FIELD(ibv_qp_init_attr, send_cq)
NDV_FIELD(ibv_qp_init_attr, recv_cq)
NDV_FIELD(ibv_qp_init_attr, srq)
NDV_FIELD(ibv_qp_init_attr, cap)
NDV_FIELD(ibv_qp_init_attr, qp_type)
NDV_FIELD(ibv_qp_init_attr, sq_sig_all)

NDV_SIZE(ibv_ah_attr)
static_assert(alignof(ours::ibv_ah_attr) == alignof(::ibv_ah_attr));

NDV_SIZE(ibv_qp_attr)
NDV_FIELD(ibv_qp_attr, qp_state)
NDV_FIELD(ibv_qp_attr, cur_qp_state)
NDV_FIELD(ibv_qp_attr, qkey)
NDV_FIELD(ibv_qp_attr, rq_psn)
NDV_FIELD(ibv_qp_attr, sq_psn)
NDV_FIELD(ibv_qp_attr, dest_qp_num)
NDV_FIELD(ibv_qp_attr, qp_access_flags)
NDV_FIELD(ibv_qp_attr, cap)
NDV_FIELD(ibv_qp_attr, ah_attr)
NDV_FIELD(ibv_qp_attr, alt_ah_attr)
NDV_FIELD(ibv_qp_attr, pkey_index)
NDV_FIELD(ibv_qp_attr, alt_pkey_index)
NDV_FIELD(ibv_qp_attr, en_sqd_async_notify)
NDV_FIELD(ibv_qp_attr, sq_draining)
NDV_FIELD(ibv_qp_attr, max_rd_atomic)
NDV_FIELD(ibv_qp_attr, max_dest_rd_atomic)
NDV_FIELD(ibv_qp_attr, min_rnr_timer)
NDV_FIELD(ibv_qp_attr, port_num)
NDV_FIELD(ibv_qp_attr, timeout)
NDV_FIELD(ibv_qp_attr, retry_cnt)
NDV_FIELD(ibv_qp_attr, rnr_retry)
NDV_FIELD(ibv_qp_attr, alt_port_num)
NDV_FIELD(ibv_qp_attr, alt_timeout)
NDV_FIELD(ibv_qp_attr, rate_limit)

NDV_SIZE(ibv_sge)
NDV_FIELD(ibv_sge, addr)
NDV_FIELD(ibv_sge, length)
NDV_FIELD(ibv_sge, lkey)

NDV_SIZE(ibv_mw_bind_info)
NDV_FIELD(ibv_mw_bind_info, mr)
NDV_FIELD(ibv_mw_bind_info, addr)
NDV_FIELD(ibv_mw_bind_info, length)
NDV_FIELD(ibv_mw_bind_info, mw_access_flags)

NDV_SIZE(ibv_send_wr)
NDV_FIELD(ibv_send_wr, wr_id)
NDV_FIELD(ibv_send_wr, next)
NDV_FIELD(ibv_send_wr, sg_list)
NDV_FIELD(ibv_send_wr, num_sge)
NDV_FIELD(ibv_send_wr, opcode)
NDV_FIELD(ibv_send_wr, send_flags)
NDV_FIELD(ibv_send_wr, imm_data)
NDV_FIELD(ibv_send_wr, invalidate_rkey)
NDV_PART(ibv_send_wr, wr.rdma.remote_addr)
NDV_PART(ibv_send_wr, wr.rdma.rkey)
NDV_PART(ibv_send_wr, wr.atomic.remote_addr)
NDV_PART(ibv_send_wr, wr.atomic.compare_add)
NDV_PART(ibv_send_wr, wr.atomic.swap)
NDV_PART(ibv_send_wr, wr.atomic.rkey)
NDV_PART(ibv_send_wr, bind_mw.mw)
NDV_PART(ibv_send_wr, bind_mw.rkey)
NDV_PART(ibv_send_wr, bind_mw.bind_info)

NDV_SIZE(ibv_recv_wr)
NDV_FIELD(ibv_recv_wr, wr_id)
NDV_FIELD(ibv_recv_wr, next)
NDV_FIELD(ibv_recv_wr, sg_list)
NDV_FIELD(ibv_recv_wr, num_sge)

NDV_SIZE(rdma_conn_param)
NDV_FIELD(rdma_conn_param, private_data)
NDV_FIELD(rdma_conn_param, private_data_len)
NDV_FIELD(rdma_conn_param, responder_resources)
NDV_FIELD(rdma_conn_param, initiator_depth)
NDV_FIELD(rdma_conn_param, flow_control)
NDV_FIELD(rdma_conn_param, retry_count)
NDV_FIELD(rdma_conn_param, rnr_retry_count)
NDV_FIELD(rdma_conn_param, srq)
NDV_FIELD(rdma_conn_param, qp_num)
// The function fills it up to where the first field of a later version begins.
static_assert(offsetof(::ibv_port_attr, port_cap_flags2) ==
              offsetof(ours::ibv_port_attr, flags) + sizeof(ours::ibv_port_attr::flags));

// ---- what the library makes: maybe longer ---------------------------------------------------

NDV_FIELD(ibv_device, transport_type)
NDV_FIELD(ibv_device, name)
NDV_FIELD(ibv_device, dev_name)

NDV_FIELD(ibv_pd, context)

NDV_FIELD(ibv_comp_channel, context)
NDV_FIELD(ibv_comp_channel, fd)

NDV_FIELD(ibv_cq, context)

NDV_FIELD(ibv_srq, context)

NDV_FIELD(ibv_mr, context)
NDV_FIELD(ibv_mr, pd)
NDV_FIELD(ibv_mr, addr)
NDV_FIELD(ibv_mr, length)
NDV_FIELD(ibv_mr, handle)
NDV_FIELD(ibv_mr, lkey)
NDV_FIELD(ibv_mr, rkey)

NDV_FIELD(ibv_mw, context)
NDV_FIELD(ibv_mw, pd)
NDV_FIELD(ibv_mw, rkey)

NDV_FIELD(ibv_qp, context)
NDV_FIELD(ibv_qp, qp_context)
NDV_FIELD(ibv_qp, pd)
NDV_FIELD(ibv_qp, send_cq)
NDV_FIELD(ibv_qp, recv_cq)
NDV_FIELD(ibv_qp, srq)
NDV_FIELD(ibv_qp, handle)
NDV_FIELD(ibv_qp, qp_num)

NDV_FIELD(ibv_context_ops, alloc_mw)
NDV_FIELD(ibv_context_ops, dealloc_mw)
NDV_FIELD(ibv_context_ops, poll_cq)
NDV_FIELD(ibv_context_ops, req_notify_cq)
NDV_FIELD(ibv_context_ops, post_srq_recv)
NDV_FIELD(ibv_context_ops, post_send)
NDV_FIELD(ibv_context_ops, post_recv)

NDV_FIELD(ibv_context, device)
NDV_FIELD(ibv_context, ops)
NDV_FIELD(ibv_context, cmd_fd)
NDV_FIELD(ibv_context, async_fd)

NDV_FIELD(rdma_event_channel, fd)

NDV_FIELD(rdma_addr, src_addr)
NDV_FIELD(rdma_addr, src_storage)
NDV_FIELD(rdma_addr, dst_addr)
NDV_FIELD(rdma_addr, dst_storage)

NDV_FIELD(rdma_cm_id, verbs)
NDV_FIELD(rdma_cm_id, channel)
NDV_FIELD(rdma_cm_id, context)
NDV_FIELD(rdma_cm_id, qp)
NDV_PART(rdma_cm_id, route.addr.src_storage)
NDV_PART(rdma_cm_id, route.addr.dst_storage)

NDV_FIELD(rdma_cm_event, id)
NDV_FIELD(rdma_cm_event, listen_id)
NDV_FIELD(rdma_cm_event, event)
NDV_FIELD(rdma_cm_event, status)
NDV_PART(rdma_cm_event, param.conn)

}  // namespace

// ---- functions ------------------------------------------------------------------------------

// Here the names of the list are those of the headers, which declare this function with an opaque
// structure, and cast.
#define ibv_port_attr _compat_ibv_port_attr
#define NDV_X(library, version, result, name, parameters, arguments) \
    static_assert(std::is_same_v<decltype(&::name), result(*) parameters>);
NDV_VERBS_FUNCTIONS(NDV_X)

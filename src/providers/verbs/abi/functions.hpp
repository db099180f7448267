// SPDX-License-Identifier: Apache-2.0
// The functions of libibverbs and librdmacm that this room calls, with the symbol version of each:
// an older version of a name may have another layout of its structures. loader.cpp defines them as
// forwarders, which work once load() has succeeded.
#pragma once

#include <sys/socket.h>

#include <cstddef>
#include <cstdint>

#include "providers/verbs/abi/rdma_cm.hpp"
#include "providers/verbs/abi/verbs.hpp"

// X(library, version, result, name, parameters, arguments)
#define NDV_VERBS_FUNCTIONS(X)                                                                     \
    X(ibverbs, "IBVERBS_1.1", ibv_device**, ibv_get_device_list, (int* count), (count))            \
    X(ibverbs, "IBVERBS_1.1", void, ibv_free_device_list, (ibv_device * *list), (list))            \
    X(ibverbs, "IBVERBS_1.1", const char*, ibv_get_device_name, (ibv_device * device), (device))   \
    X(ibverbs, "IBVERBS_1.1", ibv_context*, ibv_open_device, (ibv_device * device), (device))      \
    X(ibverbs, "IBVERBS_1.1", int, ibv_close_device, (ibv_context * context), (context))           \
    X(ibverbs, "IBVERBS_1.1", int, ibv_query_device,                                               \
      (ibv_context * context, ibv_device_attr * attributes), (context, attributes))                \
    X(ibverbs, "IBVERBS_1.1", int, ibv_query_port,                                                 \
      (ibv_context * context, std::uint8_t port, ibv_port_attr * attributes),                      \
      (context, port, attributes))                                                                 \
    X(ibverbs, "IBVERBS_1.1", int, ibv_get_async_event,                                            \
      (ibv_context * context, ibv_async_event * event), (context, event))                          \
    X(ibverbs, "IBVERBS_1.1", void, ibv_ack_async_event, (ibv_async_event * event), (event))       \
    X(ibverbs, "IBVERBS_1.1", ibv_pd*, ibv_alloc_pd, (ibv_context * context), (context))           \
    X(ibverbs, "IBVERBS_1.1", int, ibv_dealloc_pd, (ibv_pd * pd), (pd))                            \
    X(ibverbs, "IBVERBS_1.1", ibv_mr*, ibv_reg_mr,                                                 \
      (ibv_pd * pd, void* address, std::size_t length, int access), (pd, address, length, access)) \
    X(ibverbs, "IBVERBS_1.7", ibv_mr*, ibv_reg_mr_iova,                                            \
      (ibv_pd * pd, void* address, std::size_t length, std::uint64_t named, int access),           \
      (pd, address, length, named, access))                                                        \
    X(ibverbs, "IBVERBS_1.1", int, ibv_dereg_mr, (ibv_mr * mr), (mr))                              \
    X(ibverbs, "IBVERBS_1.0", ibv_comp_channel*, ibv_create_comp_channel, (ibv_context * context), \
      (context))                                                                                   \
    X(ibverbs, "IBVERBS_1.0", int, ibv_destroy_comp_channel, (ibv_comp_channel * channel),         \
      (channel))                                                                                   \
    X(ibverbs, "IBVERBS_1.1", ibv_cq*, ibv_create_cq,                                              \
      (ibv_context * context, int depth, void* owner, ibv_comp_channel* channel, int vector),      \
      (context, depth, owner, channel, vector))                                                    \
    X(ibverbs, "IBVERBS_1.1", int, ibv_destroy_cq, (ibv_cq * cq), (cq))                            \
    X(ibverbs, "IBVERBS_1.1", int, ibv_get_cq_event,                                               \
      (ibv_comp_channel * channel, ibv_cq * *cq, void** owner), (channel, cq, owner))              \
    X(ibverbs, "IBVERBS_1.1", void, ibv_ack_cq_events, (ibv_cq * cq, unsigned count), (cq, count)) \
    X(ibverbs, "IBVERBS_1.1", int, ibv_resize_cq, (ibv_cq * cq, int depth), (cq, depth))           \
    X(ibverbs, "IBVERBS_1.1", ibv_srq*, ibv_create_srq, (ibv_pd * pd, ibv_srq_init_attr * wanted), \
      (pd, wanted))                                                                                \
    X(ibverbs, "IBVERBS_1.1", int, ibv_modify_srq,                                                 \
      (ibv_srq * srq, ibv_srq_attr * attributes, int mask), (srq, attributes, mask))               \
    X(ibverbs, "IBVERBS_1.1", int, ibv_destroy_srq, (ibv_srq * srq), (srq))                        \
    X(ibverbs, "IBVERBS_1.1", ibv_qp*, ibv_create_qp, (ibv_pd * pd, ibv_qp_init_attr * wanted),    \
      (pd, wanted))                                                                                \
    X(ibverbs, "IBVERBS_1.1", int, ibv_modify_qp,                                                  \
      (ibv_qp * qp, ibv_qp_attr * attributes, int mask), (qp, attributes, mask))                   \
    X(ibverbs, "IBVERBS_1.1", int, ibv_query_qp,                                                   \
      (ibv_qp * qp, ibv_qp_attr * attributes, int mask, ibv_qp_init_attr* made),                   \
      (qp, attributes, mask, made))                                                                \
    X(ibverbs, "IBVERBS_1.1", int, ibv_destroy_qp, (ibv_qp * qp), (qp))                            \
    X(ibverbs, "IBVERBS_1.1", int, ibv_fork_init, (), ())                                          \
    X(rdmacm, "RDMACM_1.0", rdma_event_channel*, rdma_create_event_channel, (), ())                \
    X(rdmacm, "RDMACM_1.0", void, rdma_destroy_event_channel, (rdma_event_channel * channel),      \
      (channel))                                                                                   \
    X(rdmacm, "RDMACM_1.0", int, rdma_create_id,                                                   \
      (rdma_event_channel * channel, rdma_cm_id * *id, void* owner, rdma_port_space space),        \
      (channel, id, owner, space))                                                                 \
    X(rdmacm, "RDMACM_1.0", int, rdma_destroy_id, (rdma_cm_id * id), (id))                         \
    X(rdmacm, "RDMACM_1.0", int, rdma_bind_addr, (rdma_cm_id * id, sockaddr * address),            \
      (id, address))                                                                               \
    X(rdmacm, "RDMACM_1.0", int, rdma_resolve_addr,                                                \
      (rdma_cm_id * id, sockaddr * local, sockaddr * peer, int timeout_ms),                        \
      (id, local, peer, timeout_ms))                                                               \
    X(rdmacm, "RDMACM_1.0", int, rdma_resolve_route, (rdma_cm_id * id, int timeout_ms),            \
      (id, timeout_ms))                                                                            \
    X(rdmacm, "RDMACM_1.0", int, rdma_connect, (rdma_cm_id * id, rdma_conn_param * parameters),    \
      (id, parameters))                                                                            \
    X(rdmacm, "RDMACM_1.2", int, rdma_establish, (rdma_cm_id * id), (id))                          \
    X(rdmacm, "RDMACM_1.0", int, rdma_listen, (rdma_cm_id * id, int backlog), (id, backlog))       \
    X(rdmacm, "RDMACM_1.0", int, rdma_accept, (rdma_cm_id * id, rdma_conn_param * parameters),     \
      (id, parameters))                                                                            \
    X(rdmacm, "RDMACM_1.0", int, rdma_reject,                                                      \
      (rdma_cm_id * id, const void* data, std::uint8_t size), (id, data, size))                    \
    X(rdmacm, "RDMACM_1.0", int, rdma_notify, (rdma_cm_id * id, ibv_event_type event),             \
      (id, event))                                                                                 \
    X(rdmacm, "RDMACM_1.0", int, rdma_disconnect, (rdma_cm_id * id), (id))                         \
    X(rdmacm, "RDMACM_1.0", int, rdma_get_cm_event,                                                \
      (rdma_event_channel * channel, rdma_cm_event * *event), (channel, event))                    \
    X(rdmacm, "RDMACM_1.0", int, rdma_ack_cm_event, (rdma_cm_event * event), (event))              \
    X(rdmacm, "RDMACM_1.2", int, rdma_init_qp_attr,                                                \
      (rdma_cm_id * id, ibv_qp_attr * attributes, int* mask), (id, attributes, mask))              \
    X(rdmacm, "RDMACM_1.0", int, rdma_set_option,                                                  \
      (rdma_cm_id * id, int level, int option, void* value, std::size_t size),                     \
      (id, level, option, value, size))

namespace ndv::verbs {

#define NDV_X(library, version, result, name, parameters, arguments) result name parameters;
NDV_VERBS_FUNCTIONS(NDV_X)
#undef NDV_X

}  // namespace ndv::verbs

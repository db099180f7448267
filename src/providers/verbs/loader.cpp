// SPDX-License-Identifier: Apache-2.0
// The list of forwarded functions, with the symbol version of each: an older version of a name may
// have another layout of its structures.
#include "providers/verbs/loader.hpp"

#include <dlfcn.h>
#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include <cerrno>
#include <string>

// The header turns these into calls of newer functions; here they are names.
#undef ibv_get_device_list
#undef ibv_query_port
#undef ibv_reg_mr
#undef ibv_reg_mr_iova

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
      (ibv_context * context, std::uint8_t port, _compat_ibv_port_attr * attributes),              \
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

}  // namespace ndv::verbs

extern "C" {
// Libraries may fail without setting errno; what an earlier call left there is no reason.
#define NDV_X(library, version, result, name, parameters, arguments) \
    result name parameters {                                         \
        errno = 0;                                                   \
        return ndv::verbs::table.name##_ arguments;                  \
    }
NDV_VERBS_FUNCTIONS(NDV_X)
#undef NDV_X
}

// SPDX-License-Identifier: Apache-2.0
// Calls that programs reach through a context's table of operations.
#pragma once

#include "abi.hpp"

namespace ndv::doubles {

[[nodiscard]] ibv_mw* alloc_mw(ibv_pd* pd, ibv_mw_type type);
int dealloc_mw(ibv_mw* mw);
int poll_cq(ibv_cq* cq, int most, ibv_wc* out);
int req_notify_cq(ibv_cq* cq, int solicited_only);
int post_send(ibv_qp* qp, ibv_send_wr* wr, ibv_send_wr** refused);
int post_recv(ibv_qp* qp, ibv_recv_wr* wr, ibv_recv_wr** refused);
int post_srq_recv(ibv_srq* srq, ibv_recv_wr* wr, ibv_recv_wr** refused);

}  // namespace ndv::doubles

// SPDX-License-Identifier: Apache-2.0
// The one place where the double names the structures and functions that it stands in for.
#pragma once

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

// The header turns these into calls of newer functions; here they are names.
#undef ibv_get_device_list
#undef ibv_query_port
#undef ibv_reg_mr
#undef ibv_reg_mr_iova

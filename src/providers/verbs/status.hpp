// SPDX-License-Identifier: Apache-2.0
// From what devices and rdma_cm report to NDK's statuses.
#pragma once

#include "core/types.hpp"
#include "providers/verbs/abi/verbs.hpp"

namespace ndv::verbs {

[[nodiscard]] inline Status status_of(ibv_wc_status status, bool is_receive) {
    switch (status) {
        case IBV_WC_SUCCESS:
            return Status::success;
        case IBV_WC_LOC_LEN_ERR:
            return is_receive ? Status::buffer_overflow : Status::data_overrun;
        case IBV_WC_LOC_PROT_ERR:
        case IBV_WC_LOC_ACCESS_ERR:
            return Status::access_violation;
        case IBV_WC_LOC_QP_OP_ERR:
        case IBV_WC_MW_BIND_ERR:
            return Status::invalid_device_request;
        case IBV_WC_WR_FLUSH_ERR:
            return Status::cancelled;
        case IBV_WC_REM_ACCESS_ERR:
        case IBV_WC_REM_INV_REQ_ERR:
        case IBV_WC_REM_OP_ERR:
        case IBV_WC_REM_ABORT_ERR:
            return Status::remote_resources;
        case IBV_WC_RETRY_EXC_ERR:
        case IBV_WC_RNR_RETRY_EXC_ERR:
        case IBV_WC_RESP_TIMEOUT_ERR:
            return Status::io_timeout;
        default:  // the rest, and what later versions of rdma-core add
            return Status::internal_error;
    }
}

[[nodiscard]] inline core::Detail detail_of(const ibv_wc& done) {
    core::Detail detail;
    detail.source = core::Detail::Source::device;
    detail.code = static_cast<std::uint8_t>(done.status);
    detail.vendor_error = done.vendor_err;
    return detail;
}

}  // namespace ndv::verbs

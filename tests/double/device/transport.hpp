// SPDX-License-Identifier: Apache-2.0
// How a device executes requests. Everything here runs with the world's mutex.
#pragma once

#include "objects.hpp"

namespace ndv::doubles {

// Executes the first request of a queue pair, if its turn has come, or flushes.
void step(QueuePair& qp);
// The queue pair goes to ERR, or iWARP's in order to SQD, which stands for Closing there; what is
// posted is flushed in a while.
void break_down(QueuePair& qp, ibv_qp_state end = IBV_QPS_ERR);
[[nodiscard]] inline bool is_over(const QueuePair& qp) {
    return qp.state == IBV_QPS_ERR || qp.state == IBV_QPS_SQD;
}
void push(CompletionQueue& cq, const ibv_wc& wc, bool is_solicited, bool is_receive);
// What was held goes to the program.
void let_go(CompletionQueue& cq);
[[nodiscard]] QueuePair* find_queue_pair(std::uint32_t number);
// What an end of the queue pair means for its connection (iWARP).
void tell_connection(QueuePair& qp);

}  // namespace ndv::doubles

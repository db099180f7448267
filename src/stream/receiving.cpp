// SPDX-License-Identifier: Apache-2.0
// Receives that wait.
#include "stream/receiving.hpp"

#include <algorithm>
#include <cstring>

namespace ndv::stream {

void Receiving::cancel(const std::shared_ptr<Transfer>& transfer, const Error& error) {
    const auto at = std::ranges::find(waiting_, transfer);
    if (at == waiting_.end()) return;
    outcomes_.finish(transfer,
                     transfer->done > 0 ? Expected<void>() : Expected<void>(Unexpected{error}));
    waiting_.erase(at);
}

void Receiving::fill(Engine& engine, const Channel& channel) {
    while (!waiting_.empty()) {
        const std::shared_ptr<Transfer> transfer = waiting_.front();
        while (transfer->is_drain || transfer->done < transfer->length) {
            View view = engine.front();
            if (!transfer->is_drain) {
                view.length = static_cast<std::uint32_t>(
                    std::min<std::uint64_t>(view.length, transfer->length - transfer->done));
            }
            if (view.length == 0) break;
            if (!transfer->is_drain) {
                std::memcpy(transfer->data + transfer->done,
                            channel.segment_data(view.segment) + view.offset, view.length);
                transfer->done += view.length;
            }
            engine.consume(view.length);
        }
        const bool is_full = !transfer->is_drain && transfer->done == transfer->length;
        const bool is_some = !transfer->is_drain && !transfer->is_all && transfer->done > 0;
        const bool is_end = engine.is_peer_shut() && engine.readable() == 0;
        if (!is_full && !is_some && !is_end) return;
        outcomes_.finish(transfer, {});
        waiting_.pop_front();
    }
}

void Receiving::discard(Engine& engine) {
    while (!is_copying && engine.readable() > 0) engine.consume(engine.front().length);
}

void Receiving::end(const std::optional<Error>& error) {
    for (const auto& transfer : waiting_) {
        outcomes_.finish(transfer, error ? Expected<void>(Unexpected{*error}) : Expected<void>());
    }
    waiting_.clear();
}

}  // namespace ndv::stream

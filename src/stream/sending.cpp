// SPDX-License-Identifier: Apache-2.0
// Positions and lists of what is being sent.
#include "stream/sending.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace ndv::stream {

void Sending::begin(Channel& channel) {
    channel_ = &channel;
    free_slots_ = channel.qp()->limits().initiator_queue_depth;
    records_.resize(free_slots_ + 1);
}

std::size_t Sending::stage(const std::byte* data, std::size_t length) {
    const std::uint32_t size = channel_->staging_size();
    std::size_t taken = 0;
    while (taken < length && room() > 0) {
        const auto at = static_cast<std::uint32_t>(head_ % size);
        const std::size_t piece =
            static_cast<std::size_t>(std::min<std::uint64_t>({length - taken, size - at, room()}));
        std::memcpy(channel_->staging() + at, data + taken, piece);
        head_ += piece;
        taken += piece;
    }
    return taken;
}

Sending::Piece Sending::next_piece() const {
    const std::uint32_t size = channel_->staging_size();
    const auto at = static_cast<std::uint32_t>(posted_ % size);
    return {channel_->staging() + at,
            static_cast<std::uint32_t>(std::min<std::uint64_t>(head_ - posted_, size - at))};
}

void Sending::add(const std::shared_ptr<Transfer>& transfer) {
    transfer_backlog_ += transfer->length;
    transfers_.push_back(transfer);
}

void Sending::forget_backlog(const Transfer& transfer) {
    transfer_backlog_ -= std::min(transfer_backlog_, transfer.length);
}

bool Sending::cancel(const std::shared_ptr<Transfer>& transfer, const Error& error) {
    const auto at = std::ranges::find(transfers_, transfer);
    if (at == transfers_.end()) return false;
    // It leaves its queue last: what finds no memory before can be done again.
    if (transfer->done > 0) orphans_.push_back(transfer);
    outcomes_.finish(transfer, Unexpected{error});
    forget_backlog(*transfer);
    transfers_.erase(at);
    return true;
}

void Sending::fail_waiting(const Error& error) {
    for (const auto& transfer : transfers_) {
        if (transfer->done > 0) orphans_.push_back(transfer);
        forget_backlog(*transfer);
        outcomes_.finish(transfer, Unexpected{error});
    }
    is_cut = is_cut || !transfers_.empty();
    transfers_.clear();
}

void Sending::fail_posted(const Error& error) {
    for (std::uint32_t i = record_tail_; i != record_head_; i = next_record(i)) {
        if (records_[i].transfer) outcomes_.finish(records_[i].transfer, Unexpected{error});
    }
}

bool Sending::begin_request(std::uint32_t slots, const std::shared_ptr<Transfer>& transfer,
                            bool is_end) {
    open_slots_ += slots;
    free_slots_ -= slots;
    owes_transmit = true;
    const std::uint32_t depth = channel_->qp()->limits().initiator_queue_depth;
    if (transfer == nullptr && !is_end && open_slots_ < depth / 4 &&
        posted_ - signalled_until_ < channel_->staging_size() / 4) {
        return false;
    }
    records_[record_head_] = {open_slots_, posted_, transfer, is_end};
    record_head_ = next_record(record_head_);
    open_slots_ = 0;
    signalled_until_ = posted_;
    return true;
}

void Sending::end_request(Record& record) {
    free_slots_ += record.slots;
    free_ = record.staged_until;
    const std::shared_ptr<Transfer> transfer = std::exchange(record.transfer, nullptr);
    record.is_end = false;
    record_tail_ = next_record(record_tail_);
    if (!orphans_.empty() && free_slots_ == channel_->qp()->limits().initiator_queue_depth) {
        orphans_.clear();
    }
    if (transfer) forget_backlog(*transfer);
}

}  // namespace ndv::stream

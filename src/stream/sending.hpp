// SPDX-License-Identifier: Apache-2.0
// What a stream has taken over and not yet sent: staged bytes, sends from the caller's memory, and
// the requests that are on their way. With the gate of the stream, which posts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "stream/channel.hpp"
#include "stream/transfer.hpp"

namespace ndv::stream {

class Sending {
public:
    enum class Ending : std::uint8_t { none, shutdown, disconnect };

    // A completion that is due: everything posted up to it is done.
    struct Record {
        std::uint32_t slots = 0;
        std::uint64_t staged_until = 0;
        std::shared_ptr<Transfer> transfer;
        bool is_end = false;
    };
    // Staged bytes that wait, in one piece.
    struct Piece {
        const std::byte* data = nullptr;
        std::uint32_t length = 0;
    };

    explicit Sending(Outcomes& outcomes) : outcomes_(outcomes) {}
    void begin(Channel& channel);

    // ---- staged bytes ----
    [[nodiscard]] std::uint64_t room() const { return channel_->staging_size() - (head_ - free_); }
    [[nodiscard]] bool has_staged() const { return posted_ != head_; }
    [[nodiscard]] std::size_t stage(const std::byte* data, std::size_t length);
    [[nodiscard]] Piece next_piece() const;
    void note_posted(std::uint32_t length) { posted_ += length; }

    // ---- transfers ----
    [[nodiscard]] bool has_transfers() const { return !transfers_.empty(); }
    [[nodiscard]] const std::shared_ptr<Transfer>& next_transfer() const {
        return transfers_.front();
    }
    void add(const std::shared_ptr<Transfer>& transfer);
    // The last part of the next one is posted.
    void note_transfer_posted() { transfers_.pop_front(); }
    // False: it does not wait here.
    [[nodiscard]] bool cancel(const std::shared_ptr<Transfer>& transfer, const Error& error);
    // It may run once more from where it found no memory: what leaves a list was reported before.
    void fail_waiting(const Error& error);
    // Of requests on their way, whose memory stays until the device is done with it.
    void fail_posted(const Error& error);

    // ---- requests ----
    [[nodiscard]] bool has_slots(std::uint32_t count) const { return free_slots_ >= count; }
    // A request takes its slots; true: it must end in a completion, with what ends then.
    [[nodiscard]] bool begin_request(std::uint32_t slots, const std::shared_ptr<Transfer>& transfer,
                                     bool is_end);
    // The completion that is due next has come; null: none was due.
    [[nodiscard]] Record* due() {
        return record_tail_ == record_head_ ? nullptr : &records_[record_tail_];
    }
    void end_request(Record& record);

    // Bytes taken over and not yet sent. Of what was posted, only what ends in a completion is
    // known to be under way.
    [[nodiscard]] std::uint64_t backlog() const {
        return (head_ - posted_) + (signalled_until_ - free_) + transfer_backlog_;
    }

    Ending ending = Ending::none;
    std::shared_ptr<core::Operation> end_operation;
    bool is_end_posted = false;
    bool is_cut = false;  // sends were dropped that had not wholly been posted
    bool owes_transmit = false;

private:
    [[nodiscard]] std::uint32_t next_record(std::uint32_t at) const {
        return (at + 1) % static_cast<std::uint32_t>(records_.size());
    }
    void forget_backlog(const Transfer& transfer);

    Outcomes& outcomes_;
    Channel* channel_ = nullptr;  // the stream's

    // Positions in the staged stream: [free_, posted_) is on its way, [posted_, head_) waits.
    std::uint64_t head_ = 0;
    std::uint64_t posted_ = 0;
    std::uint64_t free_ = 0;
    std::uint64_t signalled_until_ = 0;
    std::uint32_t free_slots_ = 0;
    std::uint32_t open_slots_ = 0;  // posted since the last signalled one
    std::vector<Record> records_;   // a ring as large as the initiator queue
    std::uint32_t record_head_ = 0;
    std::uint32_t record_tail_ = 0;

    std::deque<std::shared_ptr<Transfer>> transfers_;  // not wholly posted
    std::vector<std::shared_ptr<Transfer>> orphans_;   // cancelled while part of them was posted
    std::uint64_t transfer_backlog_ = 0;               // bytes of transfers that are not done
};

}  // namespace ndv::stream

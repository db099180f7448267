// SPDX-License-Identifier: Apache-2.0
// The requests and receives of a connection whose two ends share memory. A Write, Read or atomic is
// executed by the initiator, in the peer's memory, with the checks that the peer would make, or by
// the peer where that memory is not within reach; a message goes through the segment's ring, or
// into the receive that it takes. In order, one at a time, with iwarp::Connection's statuses and
// causes. No system call, clock or lock.
//
// One step: begin_step(), transmit(), receive(), transmit(), then as iwarp::Stream says.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "direct/line.hpp"
#include "direct/reach.hpp"
#include "iwarp/remote_memory.hpp"
#include "iwarp/stream.hpp"

namespace ndv::direct {

// Up to here a message goes through the ring, which stays in the cache, and is done at once; above
// it one copy is worth a look at the peer's receives.
inline constexpr std::uint32_t kSmallMessage = 8 * 1024;

// How a thread that sleeps over one end hears of the other, and whether that one may still do
// something.
class Bells {
public:
    Bells() = default;
    Bells(const Bells&) = delete;
    Bells& operator=(const Bells&) = delete;
    virtual void ring_peer() = 0;
    virtual void ring_self() = 0;
    [[nodiscard]] virtual bool lives_peer() const = 0;

protected:
    ~Bells() = default;
};

class Stream final : public iwarp::Stream {
public:
    using Time = iwarp::Time;

    // `own` is what peers may name here and what local requests change; `reach` is of the peer's.
    Stream(Line& line, Bells& bells, iwarp::SendQueue& send_queue,
           iwarp::ReceiveQueue& receive_queue, iwarp::RemoteMemory& own, Reach& reach,
           iwarp::ReceiveSupply* supply, Time receive_wait);

    void begin_step(Time now) override;
    void end_step() override;
    // Both move at most `budget` bytes and one piece more; true: more could be done at once.
    [[nodiscard]] bool transmit(std::size_t budget);
    [[nodiscard]] bool receive(std::size_t budget);
    // Bytes that are left of the answer or the request in line.
    [[nodiscard]] std::size_t backlog();

    // Beside steps: requests that are executed in the slot behind the last one of an empty queue,
    // and never published. `is_in_row`: several follow each other. False: the stream has another
    // thing to do first.
    [[nodiscard]] bool begin_ahead(bool is_in_row);
    // The one there. True: it is done, all of it, and the slot may be filled anew. False: it is to
    // be published, and to go on in a step.
    [[nodiscard]] bool run_ahead();
    // A Write or Read between two pieces, in no slot. False: nothing was done, it needs one.
    [[nodiscard]] bool copy_ahead(iwarp::RemoteRight right, std::uint32_t token,
                                  std::uint64_t address, std::byte* own, std::uint32_t length);
    // An atomic; true: `found` is what was there.
    [[nodiscard]] bool fetch_ahead(iwarp::RequestKind kind, std::uint32_t token,
                                   std::uint64_t address, std::uint64_t operand,
                                   std::uint64_t compare, std::uint64_t& found);
    // Behind some of them, which may have been none: nothing is held any more, and the peer hears
    // of messages.
    void end_ahead();
    // Messages that have come. False: a step has to see to the rest. `is_more`: of the budget there
    // is nothing left, and more has come.
    [[nodiscard]] bool take_ahead(std::size_t budget, bool& is_more);

    void retire(const iwarp::StreamCompletion& completion) override;
    [[nodiscard]] iwarp::StreamEvents take_events() override;
    [[nodiscard]] std::optional<Time> poll_deadline() const override;
    [[nodiscard]] bool wants_read() const override { return is_open_ && !is_paused_; }
    [[nodiscard]] bool wants_write() override;
    [[nodiscard]] bool is_paused() const override { return is_paused_; }
    [[nodiscard]] bool can_resume() const override;
    [[nodiscard]] std::optional<Time> held_since() const override;
    // Not before the peer has let go of what it had in hand of this side.
    [[nodiscard]] bool is_over() const override { return is_quiet_; }
    // It has ended, and is not over yet.
    [[nodiscard]] bool is_ending() const { return !is_open_ && !is_quiet_; }
    [[nodiscard]] const iwarp::Cause& cause() const override { return cause_; }
    [[nodiscard]] const iwarp::StreamCounters& counters() const override { return counters_; }

    void handle_end_of_stream() override { stream_has_ended_ = true; }
    void handle_link_error(int os_error) override;
    void handle_disconnect() override;
    void handle_flush() override { go_over(); }
    void give_way() override { fail(iwarp::error::kStreamCatastrophic); }
    void withhold_receives(bool is_withheld) override { is_withheld_ = is_withheld; }

private:
    // done: the request, all of it. more: the budget is used up. blocked: it waits until the peer
    // takes a message, or for the end of a peer that closes. ended: the connection, and the request
    // with it.
    enum class Turn : std::uint8_t { done, more, blocked, ended };

    [[nodiscard]] Status end_of(std::uint32_t position) const override {
        return blamed_ == position ? blamed_status_ : Status::cancelled;
    }
    [[nodiscard]] std::uint32_t next_receive() const override { return receive_next_; }

    // Room for a slot, and for bytes in it or beside it; `at` is null when there is none.
    struct Room {
        std::byte* at = nullptr;
        std::uint8_t mark = 0;
    };
    struct Area {
        std::uint64_t sent = 0;   // position in the stream of its bytes
        std::uint64_t at = 0;     // where the next ones go
        std::uint64_t taken = 0;  // by the peer, when this side looked last
    };
    // A Read or an atomic that this side executes for the peer; of the latter, what was there.
    struct Answer {
        std::uint32_t token = 0;
        std::uint32_t left = 0;  // bytes that have not gone out
        std::uint64_t address = 0;
        std::uint64_t word = 0;
        bool is_word = false;
        bool is_blocked = false;
    };

    // Out.
    [[nodiscard]] Turn execute(std::size_t& budget);
    [[nodiscard]] Turn move(iwarp::RemoteRight right, std::size_t& budget);
    [[nodiscard]] Turn write_immediate(std::size_t& budget);
    [[nodiscard]] Turn read(std::size_t& budget);
    [[nodiscard]] Turn run_atomic(std::size_t& budget);
    [[nodiscard]] Turn run_local();
    [[nodiscard]] Turn end_local(Status status);
    [[nodiscard]] Turn carry(std::size_t& budget);
    [[nodiscard]] Turn carry_write(std::size_t& budget);
    [[nodiscard]] bool has_settled(bool is_answered);
    [[nodiscard]] std::uint32_t copy(const Grip& grip, std::size_t at, iwarp::RemoteRight right,
                                     std::uint32_t size);
    [[nodiscard]] static bool is_word(std::uint64_t address, const iovec& piece);
    [[nodiscard]] static std::uint64_t run(iwarp::RequestKind kind, void* word,
                                           std::uint64_t operand, std::uint64_t compare);
    void gather(std::byte* to, std::uint32_t size);
    void scatter(const std::byte* from, std::uint32_t size);
    [[nodiscard]] Turn send(std::size_t& budget);
    [[nodiscard]] Turn place_message(std::size_t& budget);
    [[nodiscard]] Turn send_by_ring(std::size_t& budget);
    [[nodiscard]] bool can_place() const;
    [[nodiscard]] Room find_room(std::uint32_t bytes, std::uint32_t in_slot = Slot::kBytes);
    [[nodiscard]] bool see_room();
    [[nodiscard]] static std::uint8_t marks_of(const iwarp::SendRequest& request);
    void publish(Kind kind, std::uint8_t marks, std::uint32_t length, std::uint32_t value);
    [[nodiscard]] Turn refuse(const iwarp::ErrorCode& code);
    [[nodiscard]] Turn gone();
    [[nodiscard]] bool touch(std::uint64_t what);
    [[nodiscard]] bool touch_token(std::uint32_t token);
    void let_go();
    void wake(std::uint32_t for_what);
    [[nodiscard]] bool answer(std::size_t& budget);
    [[nodiscard]] bool fetch(std::byte* to, std::uint32_t size);

    // In.
    struct Message;
    [[nodiscard]] bool take(const Message& message);
    [[nodiscard]] bool take_receive();
    [[nodiscard]] bool has_receive();
    [[nodiscard]] bool take_bytes(const Message& message);
    [[nodiscard]] bool end_message(const Message& message);
    [[nodiscard]] bool take_write(const Message& message);
    [[nodiscard]] bool take_read(const Message& message);
    [[nodiscard]] bool take_atomic(const Message& message);
    [[nodiscard]] bool take_answer(const Message& message);
    void note_taken(const Message& message);
    void publish_receives();
    void handle_verdict(std::uint32_t verdict);
    void handle_end();

    // Both.
    void fail(const iwarp::ErrorCode& code);
    void end(const iwarp::Cause& cause);
    void go_over();
    void settle_end();
    void blame(std::uint32_t position, Status status);
    void check_drained();

    Line& line_;
    Side& mine_;
    Side& theirs_;
    Bells& bells_;
    iwarp::RemoteMemory& own_;
    Reach& reach_;
    iwarp::ReceiveSupply* const supply_;
    const Time receive_wait_;

    bool is_open_ = true;
    bool is_quiet_ = false;  // over, and the peer touches nothing of this side any more
    bool is_disconnecting_ = false;
    bool has_drained_ = false;
    bool stream_has_ended_ = false;  // FIN: what is in the ring comes before it
    bool peer_has_closed_ = false;
    Time now_{};
    iwarp::Cause cause_;
    std::optional<std::uint32_t> blamed_;
    Status blamed_status_ = Status::cancelled;
    iwarp::StreamEvents events_;
    iwarp::StreamCounters counters_;

    // Out.
    std::uint32_t request_next_;
    std::uint32_t offset_ = 0;         // bytes of the next request that are done
    bool is_placing_ = false;          // ... into the peer's receive
    bool is_carried_ = false;          // the peer executes it
    bool has_asked_ = false;           // ... and is to answer
    bool is_blocked_ = false;          // it waits until the peer takes a message, or answers
    std::uint64_t touched_ = 0;        // the hazard
    std::uint32_t touched_token_ = 0;  // ... and for which token it is; 0: none
    std::uint64_t slots_sent_ = 0;
    Area data_;
    Area bulk_;
    std::uint64_t seen_slots_ = 0;  // what the peer had taken when that was looked at last
    // Sent with the last message that changes what this side would find in the peer's memory.
    std::uint64_t settled_slots_ = 0;
    std::uint64_t messages_sent_ = 0;
    std::uint64_t slots_told_ = 0;  // ahead of the queue: the peer was woken for these
    bool is_in_row_ = false;        // ... and several requests follow each other
    Answer answer_;

    // In.
    std::uint64_t data_taken_ = 0;  // positions in the streams of the peer's `data` and `bulk`
    std::uint64_t bulk_taken_ = 0;
    std::uint64_t messages_ = 0;  // taken
    std::uint64_t posted_ = 0;    // receives of messages below were published, or passed over
    std::uint32_t receive_next_;  // queue position of the next message's
    std::uint32_t received_ = 0;  // bytes of the message in progress
    bool is_in_message_ = false;
    bool is_paused_ = false;    // a message waits for a receive
    bool is_withheld_ = false;  // ... whatever is posted
    Time pause_deadline_{};
    Time held_since_{};
    std::uint32_t held_offset_ = 0;  // received_ at that time
};

}  // namespace ndv::direct

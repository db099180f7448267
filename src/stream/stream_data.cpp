// SPDX-License-Identifier: Apache-2.0
// The data calls of a stream, and what its state says about them.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "stream/stream.hpp"

namespace ndv::stream {
namespace {

// A copy up to this happens inside the gate: leaving it costs as much.
constexpr std::size_t kSmallCopy = 16 * 1024;
// A stream shows itself writable when at least so much fits (librdmacm's RS_SNDLOWAT).
constexpr std::uint64_t kSendLowWater = 2048;

}  // namespace

// ---- state, with the gate -------------------------------------------------------------------

bool Stream::is_at_end() const {
    return is_read_shut_ || (engine_ && engine_->is_peer_shut() && engine_->readable() == 0);
}

bool Stream::is_readable_now() const {
    if (phase() == Phase::over) return true;
    return phase() == Phase::connected && (engine_->readable() > 0 || is_at_end());
}

bool Stream::is_writable_now() const {
    if (phase() == Phase::over) return true;
    if (phase() != Phase::connected) return false;
    if (ending_ != Ending::none) return true;  // and a send says why it is none
    const std::uint64_t room = channel_->staging_size() - (head_ - free_);
    return sends_.empty() &&
           room >= std::min<std::uint64_t>(kSendLowWater, channel_->staging_size());
}

std::optional<Error> Stream::send_refusal(const char* call) const {
    const auto refusal = [call](Status status, const char* why, std::string remedy, int error) {
        return Error{status, std::string(call) + ": " + why, std::move(remedy), error};
    };
    if (is_closing_) return refusal(Status::file_forced_closed, "the socket is closed", {}, 0);
    if (failure_) return *failure_;
    if (ending_ != Ending::none) {
        return refusal(Status::invalid_device_state, "the sending direction was shut down", {},
                       EPIPE);
    }
    switch (phase()) {
        case Phase::fresh:
        case Phase::connecting:
        case Phase::accepting:
            return refusal(Status::connection_invalid, "the socket is not connected",
                           "connect it first", ENOTCONN);
        case Phase::connected:
            break;
        case Phase::over:
            return refusal(Status::connection_reset, "the peer ended the connection", {},
                           ECONNRESET);
    }
    return std::nullopt;
}

std::optional<Error> Stream::receive_refusal() const {
    if (engine_ && engine_->readable() > 0) return std::nullopt;
    if (is_at_end()) return std::nullopt;
    if (failure_) return *failure_;
    if (phase() == Phase::over) return std::nullopt;
    if (phase() != Phase::connected) {
        return Error{Status::connection_invalid, "receive: the socket is not connected",
                     "connect it first", ENOTCONN};
    }
    return std::nullopt;
}

// ---- sending --------------------------------------------------------------------------------

std::size_t Stream::stage(const std::byte* data, std::size_t length) {
    const std::uint32_t size = channel_->staging_size();
    std::size_t taken = 0;
    while (taken < length && head_ - free_ < size) {
        const auto at = static_cast<std::uint32_t>(head_ % size);
        const std::size_t piece = static_cast<std::size_t>(
            std::min<std::uint64_t>({length - taken, size - at, size - (head_ - free_)}));
        std::memcpy(channel_->staging() + at, data + taken, piece);
        head_ += piece;
        taken += piece;
    }
    return taken;
}

Expected<std::size_t> Stream::send(const std::byte* data, std::size_t length, core::Budget budget) {
    const Entered entered(*this);
    if (is_live() && !has_leader_) take_completions();
    if (auto refusal = send_refusal()) return Unexpected{std::move(*refusal)};
    if (length == 0 || !sends_.empty()) return std::size_t{0};
    if (head_ == posted_ && length <= channel_->qp()->limits().inline_size && has_slots(4) &&
        engine_->sendable() >= length) {
        const Chunk chunk = engine_->take_chunk(static_cast<std::uint32_t>(length));
        Outgoing out;
        out.has_write = true;
        out.data = data;
        out.length = chunk.length;
        out.is_inline = true;
        out.remote_address = chunk.address;
        out.remote_key = chunk.key;
        out.word = chunk.word;
        if (post(out, nullptr, false)) serve(budget);
        return length;
    }
    const std::size_t taken = stage(data, length);
    serve(budget);
    return taken;
}

namespace {

Expected<void> register_transfer(core::ProtectionDomain& pd, Transfer& transfer,
                                 std::uint32_t rights) {
    auto region = pd.create_mr();
    if (!region) return Unexpected{region.error()};
    transfer.hold->add_reference();
    if (auto done = (*region)->register_buffer(transfer.hold, rights); !done) return done;
    transfer.region = std::move(*region);
    transfer.token = transfer.region->tokens().local;
    return {};
}

}  // namespace

Expected<void> Stream::submit_send(const std::shared_ptr<Transfer>& transfer) {
    // Registration takes a while on a device: before the gate.
    std::shared_ptr<core::ProtectionDomain> pd;
    std::uint32_t inline_size = 0;
    {
        const Entered entered(*this);
        if (auto refusal = send_refusal()) return Unexpected{std::move(*refusal)};
        pd = channel_->pd();
        inline_size = channel_->qp()->limits().inline_size;
    }
    if (transfer->length > inline_size) {
        auto registered = register_transfer(*pd, *transfer, core::access::kLocalRead);
        if (!registered) return registered;
    }
    const Entered entered(*this);
    if (auto refusal = send_refusal()) return Unexpected{std::move(*refusal)};
    if (transfer->offset) {
        if (!has_leader_) take_completions();
        if (auto refusal = unmapped(*transfer)) return Unexpected{std::move(*refusal)};
    }
    if (transfer->length == 0) {
        finish(transfer, {});
        return {};
    }
    transfer_backlog_ += transfer->length;
    sends_.push_back(transfer);
    if (!has_leader_) take_completions();
    if (is_live()) serve(core::Budget::large);
    return {};
}

void Stream::cancel(const std::shared_ptr<Transfer>& transfer) {
    const Entered entered(*this);
    const Error cancelled{Status::cancelled, "the request was cancelled", {}, 0};
    // It leaves its queue last: what finds no memory before can be done again.
    if (const auto at = std::ranges::find(sends_, transfer); at != sends_.end()) {
        if (transfer->done > 0) orphans_.push_back(transfer);
        finish(transfer, Unexpected{cancelled});
        transfer_backlog_ -= std::min(transfer_backlog_, transfer->length);
        sends_.erase(at);
    } else if (const auto in = std::ranges::find(receives_, transfer); in != receives_.end()) {
        finish(transfer,
               transfer->done > 0 ? Expected<void>() : Expected<void>(Unexpected{cancelled}));
        receives_.erase(in);
    }
}

// ---- mappings -------------------------------------------------------------------------------

Expected<std::uint64_t> Stream::map(const std::shared_ptr<Transfer>& memory,
                                    std::optional<std::uint64_t> offset) {
    if (memory->length == 0 || memory->length > std::numeric_limits<std::uint32_t>::max()) {
        return fail(
            Status::invalid_parameter,
            "riomap: a mapping has 1 byte to 4 GiB - 1, not " + std::to_string(memory->length), {},
            EINVAL);
    }
    std::shared_ptr<core::ProtectionDomain> pd;
    {
        const Entered entered(*this);
        if (auto refusal = send_refusal("riomap")) return Unexpected{std::move(*refusal)};
        pd = channel_->pd();
    }
    if (auto done = register_transfer(*pd, *memory, core::access::kRemoteWrite); !done) {
        return Unexpected{done.error()};
    }
    const Entered entered(*this);
    if (auto refusal = send_refusal("riomap")) return Unexpected{std::move(*refusal)};
    const std::uint64_t address = memory->region->address();
    if (offset.value_or(address) > ~memory->length) {
        return fail(Status::invalid_parameter,
                    "riomap: the mapping at offset " + std::to_string(*offset) +
                        " would end beyond 64 bits",
                    {}, EINVAL);
    }
    const Mapping mapping{
        offset.value_or(address),
        {address, memory->region->tokens().remote, static_cast<std::uint32_t>(memory->length)}};
    auto number = engine_->add_mapping(mapping);
    if (!number) return Unexpected{number.error()};
    mapped_.push_back({memory, *number});
    if (is_live() && !has_leader_) take_completions();
    if (is_live()) serve(core::Budget::large);
    return mapping.offset;
}

Expected<void> Stream::unmap(const std::byte* data, std::uint64_t length) {
    std::shared_ptr<Transfer> ended;  // outside the gate
    const Entered entered(*this);
    const auto found = std::ranges::find_if(mapped_, [&](const Mapped& one) {
        return one.memory->data == data && one.memory->length == length;
    });
    if (found == mapped_.end()) {
        return fail(Status::invalid_parameter, "riounmap: this memory is not mapped", {}, EINVAL);
    }
    engine_->remove_mapping(found->number);
    ended = std::move(found->memory);
    mapped_.erase(found);
    return {};
}

// A mapping of the peer's covers all that is left, or several do.
std::optional<Error> Stream::unmapped(const Transfer& transfer) const {
    for (std::uint64_t done = transfer.done; done < transfer.length;) {
        // None lies across the end of 64 bits.
        const RemoteRange range = done > ~*transfer.offset
                                      ? RemoteRange{}
                                      : engine_->find_mapping(*transfer.offset + done);
        if (range.length == 0) {
            return Error{Status::invalid_parameter,
                         "riowrite: the peer has nothing mapped at offset " +
                             std::to_string(*transfer.offset + done),
                         "let it call riomap and send a message before", EFAULT};
        }
        done += range.length;
    }
    return std::nullopt;
}

// ---- receiving ------------------------------------------------------------------------------

Expected<Received> Stream::receive(std::byte* to, std::size_t length, core::Budget budget,
                                   bool peeks) {
    const base::Lock reader(reader_);
    Received out;
    while (true) {
        View view;
        const std::byte* from = nullptr;
        {
            const Entered entered(*this);
            if (out.bytes == 0) {
                if (is_live() && !has_leader_) take_completions();
                if (auto refusal = receive_refusal()) return Unexpected{std::move(*refusal)};
                if (is_read_shut_ || !engine_ ||
                    (engine_->readable() == 0 && (is_at_end() || phase() == Phase::over))) {
                    out.is_end = true;
                    return out;
                }
                if (!receives_.empty()) return out;  // they come first
            }
            view = engine_->front();
            view.length = static_cast<std::uint32_t>(
                std::min<std::uint64_t>(view.length, length - out.bytes));
            if (view.length == 0) return out;
            from = channel_->segment_data(view.segment) + view.offset;
            if (view.length <= kSmallCopy) {
                std::memcpy(to + out.bytes, from, view.length);
                out.bytes += view.length;
                if (peeks) return out;
                engine_->consume(view.length);
                if (is_live()) serve(budget);
                if (out.bytes == length || engine_->readable() == 0) return out;
                continue;
            }
            is_copying_ = true;
        }
        std::memcpy(to + out.bytes, from, view.length);
        out.bytes += view.length;
        const Entered entered(*this);
        is_copying_ = false;
        if (peeks) return out;
        engine_->consume(view.length);
        if (is_live()) serve(budget);
        if (out.bytes == length || engine_->readable() == 0) return out;
    }
}

Expected<void> Stream::submit_receive(const std::shared_ptr<Transfer>& transfer) {
    // What a reader copies outside the gate is not this one's.
    const base::Lock reader(reader_);
    const Entered entered(*this);
    if (is_live() && !has_leader_) take_completions();
    if (is_closing_) return fail(Status::cancelled, "receive: the socket is closed");
    if (auto refusal = receive_refusal()) return Unexpected{std::move(*refusal)};
    if (is_read_shut_) {
        finish(transfer, {});
        return {};
    }
    receives_.push_back(transfer);
    guarded([this] { fill_receives(); });
    if (is_live()) {
        serve(core::Budget::large);
    } else {
        end_receives();
    }
    return {};
}

void Stream::fill_receives() {
    while (!receives_.empty()) {
        const std::shared_ptr<Transfer> transfer = receives_.front();
        while (transfer->is_drain || transfer->done < transfer->length) {
            View view = engine_->front();
            if (!transfer->is_drain) {
                view.length = static_cast<std::uint32_t>(
                    std::min<std::uint64_t>(view.length, transfer->length - transfer->done));
            }
            if (view.length == 0) break;
            if (!transfer->is_drain) {
                std::memcpy(transfer->data + transfer->done,
                            channel_->segment_data(view.segment) + view.offset, view.length);
                transfer->done += view.length;
            }
            engine_->consume(view.length);
        }
        const bool is_full = !transfer->is_drain && transfer->done == transfer->length;
        const bool is_some = !transfer->is_drain && !transfer->is_all && transfer->done > 0;
        const bool is_end = engine_->is_peer_shut() && engine_->readable() == 0;
        if (!is_full && !is_some && !is_end) return;
        finish(transfer, {});
        receives_.pop_front();
    }
}

// The program will not read it, and the peer need not wait for that.
void Stream::discard_received() {
    while (!is_copying_ && engine_->readable() > 0) engine_->consume(engine_->front().length);
}

Expected<View> Stream::take(std::uint32_t most, const View* seen) {
    const base::Lock reader(reader_);
    const Entered entered(*this);
    if (is_live() && !has_leader_) take_completions();
    if (auto refusal = receive_refusal()) return Unexpected{std::move(*refusal)};
    if (!engine_ || is_read_shut_ || !receives_.empty()) return View{};
    if (seen != nullptr) {
        const View first = engine_->front();
        if (first.segment != seen->segment || first.offset != seen->offset) return View{};
    }
    const View view = engine_->take(most);
    if (is_live()) serve(core::Budget::small);
    return view;
}

View Stream::look(std::uint32_t most) {
    const Entered entered(*this);
    if (is_live() && !has_leader_) take_completions();
    if (!engine_ || is_read_shut_ || !receives_.empty()) return {};
    View view = engine_->front();
    view.length = std::min(view.length, most);
    return view;
}

void Stream::consume(std::uint32_t length) {
    const Entered entered(*this);
    engine_->consume(std::min(length, engine_->front().length));
    if (is_live()) serve(core::Budget::small);
}

void Stream::release(const View& view) {
    const Entered entered(*this);
    engine_->release(view);
    if (is_live()) serve(core::Budget::small);
}

const std::byte* Stream::data_of(const View& view) const {
    return channel_->segment_data(view.segment) + view.offset;
}

// ---- state ----------------------------------------------------------------------------------

std::uint64_t Stream::readable() const {
    auto& self = const_cast<Stream&>(*this);
    const Entered entered(self);
    return engine_ ? engine_->readable() : 0;
}

std::uint64_t Stream::available() {
    const Entered entered(*this);
    if (is_live() && !has_leader_) take_completions();
    return engine_ && !is_read_shut_ ? engine_->readable() : 0;
}

bool Stream::is_peer_shut() const {
    auto& self = const_cast<Stream&>(*this);
    const Entered entered(self);
    return engine_ && engine_->is_peer_shut();
}

std::optional<Error> Stream::failure() const {
    auto& self = const_cast<Stream&>(*this);
    const Entered entered(self);
    return failure_;
}

Expected<core::SocketAddress> Stream::local_address() const {
    std::shared_ptr<core::Connector> connector;
    {
        auto& self = const_cast<Stream&>(*this);
        const Entered entered(self);
        connector = connector_;
    }
    if (connector) return connector->local_address();
    return fail(Status::invalid_device_state, "local_address: the socket is not connected", {},
                ENOTCONN);
}

Expected<core::SocketAddress> Stream::peer_address() const {
    auto& self = const_cast<Stream&>(*this);
    const Entered entered(self);
    if (phase() == Phase::connected || (phase() == Phase::over && !failure_)) return peer_;
    return fail(Status::invalid_device_state, "peer_address: the socket is not connected", {},
                ENOTCONN);
}

std::uint64_t Stream::ideal_send_backlog() const {
    auto& self = const_cast<Stream&>(*this);
    const Entered entered(self);
    return engine_ ? engine_->window() : 0;
}

std::uint64_t Stream::send_backlog() const {
    auto& self = const_cast<Stream&>(*this);
    const Entered entered(self);
    if (!is_live()) return 0;
    // Of what was posted, only what ends in a completion is known to be under way.
    return (head_ - posted_) + (signalled_until_ - free_) + transfer_backlog_;
}

bool Stream::is_short_of_memory() const {
    auto& self = const_cast<Stream&>(*this);
    const Entered entered(self);
    return engine_ && channel_ && engine_->wants_segment() &&
           engine_->segment_count() >= channel_->max_segments();
}

std::uint64_t Stream::memory_use() const {
    auto& self = const_cast<Stream&>(*this);
    const Entered entered(self);
    if (!channel_) return 0;
    return channel_->staging_size() +
           std::uint64_t{channel_->segment_size()} * engine_->segment_count();
}

}  // namespace ndv::stream

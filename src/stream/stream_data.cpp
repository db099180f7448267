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
    return receiving_.is_shut || (engine_ && engine_->is_peer_shut() && engine_->readable() == 0);
}

bool Stream::is_readable_now() const {
    if (phase() == Phase::over) return true;
    return phase() == Phase::connected && (engine_->readable() > 0 || is_at_end());
}

bool Stream::is_writable_now() const {
    if (phase() == Phase::over) return true;
    if (phase() != Phase::connected) return false;
    if (sending_.ending != Sending::Ending::none) return true;  // and a send says why it is none
    return !sending_.has_transfers() &&
           sending_.room() >= std::min<std::uint64_t>(kSendLowWater, channel_->staging_size());
}

std::optional<Error> Stream::send_refusal(const char* call) const {
    const auto refusal = [call](Status status, const char* why, std::string remedy, int error) {
        return Error{status, std::string(call) + ": " + why, std::move(remedy), error};
    };
    if (is_closing_) return refusal(Status::file_forced_closed, "the socket is closed", {}, 0);
    if (failure_) return *failure_;
    if (sending_.ending != Sending::Ending::none) {
        return refusal(Status::invalid_device_state, "the sending direction was shut down", {},
                       EPIPE);
    }
    if (phase() == Phase::connected) return std::nullopt;
    if (phase() == Phase::over) {
        return refusal(Status::connection_reset, "the peer ended the connection", {}, ECONNRESET);
    }
    return refusal(Status::connection_invalid, "the socket is not connected", "connect it first",
                   ENOTCONN);
}

std::optional<Error> Stream::receive_refusal() const {
    if ((engine_ && engine_->readable() > 0) || is_at_end()) return std::nullopt;
    if (failure_) return failure_;
    if (phase() == Phase::connected || phase() == Phase::over) return std::nullopt;
    return Error{Status::connection_invalid, "receive: the socket is not connected",
                 "connect it first", ENOTCONN};
}

// ---- sending --------------------------------------------------------------------------------

Expected<std::size_t> Stream::send(const std::byte* data, std::size_t length, core::Budget budget) {
    const Entered entered(*this);
    if (is_live() && !waiting_.has_leader) take_completions();
    if (auto refusal = send_refusal()) return Unexpected{std::move(*refusal)};
    if (length == 0 || sending_.has_transfers()) return std::size_t{0};
    if (!sending_.has_staged() && length <= channel_->qp()->limits().inline_size &&
        sending_.has_slots(4) && engine_->sendable() >= length) {
        Outgoing out;
        out.take(engine_->take_chunk(static_cast<std::uint32_t>(length)));
        out.data = data;
        out.is_inline = true;
        if (post(out, nullptr, false)) serve(budget);
        return length;
    }
    const std::size_t taken = sending_.stage(data, length);
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
        if (!waiting_.has_leader) take_completions();
        if (auto refusal = unmapped(*transfer)) return Unexpected{std::move(*refusal)};
    }
    if (transfer->length == 0) {
        outcomes_.finish(transfer, {});
        return {};
    }
    sending_.add(transfer);
    if (!waiting_.has_leader) take_completions();
    if (is_live()) serve(core::Budget::large);
    return {};
}

void Stream::cancel(const std::shared_ptr<Transfer>& transfer) {
    const Entered entered(*this);
    const Error cancelled{Status::cancelled, "the request was cancelled", {}, 0};
    if (!sending_.cancel(transfer, cancelled)) receiving_.cancel(transfer, cancelled);
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
    if (is_live() && !waiting_.has_leader) take_completions();
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
    const base::Lock reader(receiving_.reader);
    Received out;
    // With the gate: so many were copied; true: that was all.
    const auto is_enough = [&](std::uint32_t copied) {
        out.bytes += copied;
        if (peeks) return true;
        engine_->consume(copied);
        if (is_live()) serve(budget);
        return out.bytes == length || engine_->readable() == 0;
    };
    while (true) {
        View view;
        const std::byte* from = nullptr;
        {
            const Entered entered(*this);
            if (out.bytes == 0) {
                if (is_live() && !waiting_.has_leader) take_completions();
                if (auto refusal = receive_refusal()) return Unexpected{std::move(*refusal)};
                if (receiving_.is_shut || !engine_ ||
                    (engine_->readable() == 0 && (is_at_end() || phase() == Phase::over))) {
                    out.is_end = true;
                    return out;
                }
                if (receiving_.has_waiting()) return out;  // they come first
            }
            view = engine_->front();
            view.length = static_cast<std::uint32_t>(
                std::min<std::uint64_t>(view.length, length - out.bytes));
            if (view.length == 0) return out;
            from = channel_->segment_data(view.segment) + view.offset;
            if (view.length <= kSmallCopy) {
                std::memcpy(to + out.bytes, from, view.length);
                if (is_enough(view.length)) return out;
                continue;
            }
            receiving_.is_copying = true;
        }
        std::memcpy(to + out.bytes, from, view.length);
        const Entered entered(*this);
        receiving_.is_copying = false;
        if (is_enough(view.length)) return out;
    }
}

Expected<void> Stream::submit_receive(const std::shared_ptr<Transfer>& transfer) {
    // What a reader copies outside the gate is not this one's.
    const base::Lock reader(receiving_.reader);
    const Entered entered(*this);
    if (is_live() && !waiting_.has_leader) take_completions();
    if (is_closing_) return fail(Status::cancelled, "receive: the socket is closed");
    if (auto refusal = receive_refusal()) return Unexpected{std::move(*refusal)};
    if (receiving_.is_shut) {
        outcomes_.finish(transfer, {});
        return {};
    }
    receiving_.add(transfer);
    try {
        receiving_.fill(*engine_, *channel_);
    } catch (const std::bad_alloc&) {
        break_without_memory();
    }
    if (is_live()) {
        serve(core::Budget::large);
    } else {
        end_receives();
    }
    return {};
}

Expected<View> Stream::take(std::uint32_t most, const View* seen) {
    const base::Lock reader(receiving_.reader);
    const Entered entered(*this);
    if (is_live() && !waiting_.has_leader) take_completions();
    if (auto refusal = receive_refusal()) return Unexpected{std::move(*refusal)};
    if (!engine_ || receiving_.is_shut || receiving_.has_waiting()) return View{};
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
    if (is_live() && !waiting_.has_leader) take_completions();
    if (!engine_ || receiving_.is_shut || receiving_.has_waiting()) return {};
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
    const Entered entered(*this);
    return engine_ ? engine_->readable() : 0;
}

std::uint64_t Stream::available() {
    const Entered entered(*this);
    if (is_live() && !waiting_.has_leader) take_completions();
    return engine_ && !receiving_.is_shut ? engine_->readable() : 0;
}

bool Stream::is_peer_shut() const {
    const Entered entered(*this);
    return engine_ && engine_->is_peer_shut();
}

std::optional<Error> Stream::failure() const {
    const Entered entered(*this);
    return failure_;
}

Expected<core::SocketAddress> Stream::local_address() const {
    std::shared_ptr<core::Connector> connector;
    {
        const Entered entered(*this);
        connector = connector_;
    }
    if (connector) return connector->local_address();
    return fail(Status::invalid_device_state, "local_address: the socket is not connected", {},
                ENOTCONN);
}

Expected<core::SocketAddress> Stream::peer_address() const {
    const Entered entered(*this);
    if (phase() == Phase::connected || (phase() == Phase::over && !failure_)) return peer_;
    return fail(Status::invalid_device_state, "peer_address: the socket is not connected", {},
                ENOTCONN);
}

std::uint64_t Stream::ideal_send_backlog() const {
    const Entered entered(*this);
    return engine_ ? engine_->window() : 0;
}

std::uint64_t Stream::send_backlog() const {
    const Entered entered(*this);
    if (!is_live()) return 0;
    return sending_.backlog();
}

bool Stream::is_short_of_memory() const {
    const Entered entered(*this);
    return engine_ && channel_ && engine_->wants_segment() &&
           engine_->segment_count() >= channel_->max_segments();
}

std::uint64_t Stream::memory_use() const {
    const Entered entered(*this);
    if (!channel_) return 0;
    return channel_->staging_size() +
           std::uint64_t{channel_->segment_size()} * engine_->segment_count();
}

}  // namespace ndv::stream

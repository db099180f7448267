// SPDX-License-Identifier: Apache-2.0
// Registration and the search for local memory.
#include "core/memory.hpp"

#include <array>
#include <cstring>
#include <memory>
#include <utility>

#include "core/adapter.hpp"

namespace ndv::core {
namespace {

// A process of this host that runs is back from a copy by then.
constexpr std::chrono::seconds kClosePatience{1};

// What peers may write, their responses to our Reads may, too.
std::uint32_t granted_rights(std::uint32_t rights) {
    return (rights & access::kRemoteWriteBit) != 0 ? rights | access::kRdmaReadSink : rights;
}

}  // namespace

std::byte* LocalBuffer::copy_to(std::byte* to) const {
    if (pages == nullptr) {
        if (length > 0) std::memcpy(to, begin(), length);
        return to + length;
    }
    std::array<iovec, 8> pieces;
    for (std::uint32_t done = 0; done < length;) {
        const std::size_t count =
            pages->pieces(offset + done, length - done, pieces.data(), pieces.size());
        for (std::size_t i = 0; i < count; ++i) {
            std::memcpy(to + done, pieces[i].iov_base, pieces[i].iov_len);
            done += static_cast<std::uint32_t>(pieces[i].iov_len);
        }
    }
    return to + length;
}

MemoryRegion::MemoryRegion(std::shared_ptr<ProtectionDomain> pd) : pd_(std::move(pd)) {}

MemoryRegion::~MemoryRegion() {
    if (hold_ != nullptr && !is_foreign()) hold_->release();
}

Expected<void> MemoryRegion::register_buffer(BufferHold* hold, std::uint32_t rights) {
    const auto release = [](BufferHold* given) { given->release(); };
    std::unique_ptr<BufferHold, decltype(release)> owned(hold);
    // Before the look at is_closed(): close() takes it to look for a registration.
    const base::Lock lock(mutex_);
    if (is_closed()) return closed("register", "memory region");
    if ((rights & ~access::kAll) != 0) {
        return fail(Status::invalid_parameter,
                    "register: unknown access bits in " + std::to_string(rights),
                    "combine values of Access");
    }
    // Remote write contains local write; the bare bit would be a right without its foundation.
    if ((rights & access::kRemoteWriteBit) != 0) rights |= access::kRemoteWrite;
    if ((rights & access::kRemoteAtomicBit) != 0) {
        rights |= access::kRemoteAtomic;
        if ((pd_->info().extensions & extension::kAtomics) == 0) {
            return fail(Status::not_supported, "register: the adapter has no atomics",
                        "adapter.info.extensions names what there is");
        }
    }
    if (hold->size() == 0) {
        return fail(Status::invalid_parameter, "register: the buffer is empty");
    }
    if (hold->size() > pd_->info().max_registration_size) {
        return fail(Status::invalid_parameter,
                    "register: " + std::to_string(hold->size()) +
                        " bytes exceed max_registration_size " +
                        std::to_string(pd_->info().max_registration_size));
    }
    if ((rights & access::kLocalWrite) != 0 && !hold->is_writable()) {
        return fail(Status::access_denied,
                    "register: the buffer is read-only, but the access asks for writing",
                    "register a writable copy, or ask for Access.REMOTE_READ only");
    }
    if (has_ended_) {
        return fail(Status::invalid_device_request,
                    "register: a process of this host has the region's last memory in hand still",
                    "call deregister() once more, or create another region");
    }
    if (hold_ != nullptr) {
        return fail(Status::invalid_device_request,
                    "register: the memory region is registered already",
                    "deregister() it first, or create another region");
    }
    auto tokens = do_register(*hold, granted_rights(rights));
    if (!tokens) return Unexpected{tokens.error()};
    tokens_ = *tokens;
    hold_ = hold;
    rights_ = rights;
    try {
        const base::Lock domain(pd_->mutex_);
        pd_->ranges_.add(range());
    } catch (...) {  // no memory: the region is as before
        hold_ = nullptr;
        do_deregister(std::exchange(tokens_, {}));
        rights_ = 0;
        throw;
    }
    static_cast<void>(owned.release());
    return {};
}

Expected<bool> MemoryRegion::deregister(std::chrono::nanoseconds patience) {
    return end_registration(false, patience);
}

Expected<bool> MemoryRegion::end_access(std::chrono::nanoseconds patience) {
    return end_registration(true, patience);
}

Expected<bool> MemoryRegion::end_registration(bool is_forced, std::chrono::nanoseconds patience) {
    Tokens ended;
    {
        const base::Lock lock(mutex_);
        if (hold_ == nullptr) {
            if (is_closed()) return closed("deregister", "memory region");
            return fail(Status::invalid_device_request,
                        "deregister: the memory region is not registered");
        }
        if (windows_ > 0) {
            return fail(Status::device_busy,
                        "deregister: " + std::to_string(windows_) +
                            " memory windows are bound to the region",
                        "invalidate or close them first");
        }
        if (!has_ended_) {
            if (const std::uint32_t users = is_forced ? 0 : hold_->seal(); users > 0) {
                return fail(Status::device_busy,
                            "deregister: posted requests name the region (segments: " +
                                std::to_string(users) + ")",
                            "take their completions first, flush the queue pair, or close() the "
                            "region, which keeps the memory until they have ended");
            }
            {
                const base::Lock domain(pd_->mutex_);
                pd_->ranges_.remove(range());
            }
            do_deregister(tokens_);
            has_ended_ = true;
        }
        ended = tokens_;
    }
    // Without the mutex: others may ask what it is, and wait for the same.
    if (!await_peers(ended, patience)) return false;
    if (BufferHold* const hold = take_buffer(ended)) hold->release();
    return true;
}

BufferHold* MemoryRegion::take_buffer(const Tokens& ended) {
    const base::Lock lock(mutex_);
    // Another thread may have been faster, and have registered it anew.
    if (!has_ended_ || tokens_.local != ended.local) return nullptr;
    has_ended_ = false;
    rights_ = 0;
    tokens_ = Tokens{};
    return std::exchange(hold_, nullptr);
}

Range MemoryRegion::range() const {
    return {reinterpret_cast<std::uint64_t>(hold_->data()), hold_->size(), granted_rights(rights_),
            tokens_.local};
}

void MemoryRegion::do_close() { close_within(kClosePatience); }

void MemoryRegion::close_within(std::chrono::nanoseconds patience) {
    {
        const base::Lock lock(mutex_);
        if (hold_ == nullptr) return;
    }
    auto ended = end_registration(true, patience);
    if (!ended || *ended) return;
    const Tokens given = tokens();
    if (BufferHold* const hold = take_buffer(given)) leave_to_peers(given, *hold);
}

bool MemoryRegion::add_window() {
    const base::Lock lock(mutex_);
    if (!has_buffer()) return false;
    ++windows_;
    return true;
}

void MemoryRegion::remove_window() {
    {
        const base::Lock lock(mutex_);
        if (--windows_ > 0) return;
    }
    // Closed while it had windows: now the registration ends. A close() that comes just now does
    // it itself; the second of the two finds nothing registered. This may be in a step.
    if (is_closed()) close_within({});
}

BufferHold* MemoryRegion::share_hold() const {
    const base::Lock lock(mutex_);
    if (!has_buffer()) return nullptr;
    hold_->add_reference();
    return hold_;
}

bool MemoryRegion::is_registered() const {
    const base::Lock lock(mutex_);
    return has_buffer();
}

Tokens MemoryRegion::tokens() const {
    const base::Lock lock(mutex_);
    return tokens_;
}

std::uint64_t MemoryRegion::address() const {
    const base::Lock lock(mutex_);
    return hold_ == nullptr ? 0 : reinterpret_cast<std::uint64_t>(hold_->data());
}

std::uint64_t MemoryRegion::size() const {
    const base::Lock lock(mutex_);
    return hold_ == nullptr ? 0 : hold_->size();
}

std::uint32_t MemoryRegion::rights() const {
    const base::Lock lock(mutex_);
    return rights_;
}

Expected<std::shared_ptr<MemoryRegion>> ProtectionDomain::create_mr() {
    if (is_closed()) return closed("create_mr", "protection domain");
    return adopted(do_create_mr());
}

Expected<std::shared_ptr<QueuePair>> ProtectionDomain::create_qp(
    std::shared_ptr<CompletionQueue> receive_cq, std::shared_ptr<CompletionQueue> initiator_cq,
    std::shared_ptr<SharedReceiveQueue> srq, QueuePairLimits limits, RequestContexts* contexts) {
    if (srq != nullptr) {
        // Depth and segments of receives are the shared queue's.
        limits.receive_queue_depth = 0;
        limits.max_receive_sge = srq->max_sge();
    }
    const char* const call = srq != nullptr ? "create_qp_with_srq" : "create_qp";
    if (auto sound = check_limits(call, limits); !sound) return Unexpected{sound.error()};
    if (srq != nullptr && (srq->is_closed() || srq->pd().get() != this)) {
        return fail(srq->is_closed() ? Status::file_forced_closed : Status::invalid_parameter,
                    "create_qp_with_srq: the shared receive queue is closed, or of another "
                    "protection domain");
    }
    return adopted(do_create_qp(std::move(receive_cq), std::move(initiator_cq), std::move(srq),
                                limits, contexts));
}

void ProtectionDomain::adopt(const std::shared_ptr<Object>& object) const {
    if (const auto adapter = adapter_.lock()) adapter->adopt(object);
}

Expected<void> ProtectionDomain::check_limits(const char* call,
                                              const QueuePairLimits& limits) const {
    if (is_closed()) return closed(call, "protection domain");
    const AdapterInfo& most = info();
    struct Row {
        const char* name;
        std::uint32_t value;
        std::uint32_t limit;
    };
    for (const Row& row : {
             Row{"receive_queue_depth", limits.receive_queue_depth, most.max_receive_queue_depth},
             Row{"initiator_queue_depth", limits.initiator_queue_depth,
                 most.max_initiator_queue_depth},
             Row{"max_receive_sge", limits.max_receive_sge, most.max_receive_request_sge},
             Row{"max_initiator_sge", limits.max_initiator_sge, most.max_initiator_request_sge},
             Row{"inline_size", limits.inline_size, most.max_inline_data_size},
         }) {
        if (row.value > row.limit) {
            return fail(Status::invalid_parameter,
                        std::string(call) + ": " + row.name + " " + std::to_string(row.value) +
                            " exceeds the adapter's " + std::to_string(row.limit),
                        "see adapter.info");
        }
    }
    return {};
}

Expected<Segment> ProtectionDomain::find(std::uint64_t address, std::uint64_t length,
                                         std::uint32_t rights) const {
    const base::Lock lock(mutex_);
    if (const Range* found = ranges_.find(address, length, rights)) [[likely]] {
        return Segment{address, length, found->token};
    }
    std::string what = std::to_string(length) + " bytes at " + std::to_string(address);
    if (ranges_.find(address, length, 0) != nullptr) {
        return fail(Status::access_violation,
                    what + " are registered, but without the right that the request needs",
                    "register the array with Access.LOCAL_WRITE");
    }
    what += " are in no registered region of this protection domain";
    if (const Range* nearest = ranges_.nearest(address)) {
        what += "; the nearest is [" + std::to_string(nearest->address) + ", " +
                std::to_string(nearest->end()) + ")";
    }
    return fail(Status::invalid_parameter, std::move(what),
                "register the array in the queue pair's protection domain first");
}

}  // namespace ndv::core

// SPDX-License-Identifier: Apache-2.0
// NDK's vocabulary as values: flags, access rights, requests, completions, adapter limits.
// Numbers are NDKPI's; those of what is beyond NDK are chosen far from them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.hpp"

namespace ndv::core {

enum class OperationType : std::uint32_t {
    receive = 1,
    send = 2,
    fast_register = 4,
    bind = 8,
    invalidate = 16,
    read = 32,
    write = 64,
    receive_and_invalidate = 0x8001,
    fetch_add = 0x10000,  // beyond NDK, as the next
    compare_swap = 0x20000,
};

namespace flag {
inline constexpr std::uint32_t kSilentSuccess = 0x001;
inline constexpr std::uint32_t kReadFence = 0x002;
inline constexpr std::uint32_t kSendAndSolicitEvent = 0x004;
inline constexpr std::uint32_t kAllowRemoteRead = 0x008;
inline constexpr std::uint32_t kAllowLocalWrite = 0x010;
inline constexpr std::uint32_t kAllowRemoteWrite = 0x030;
inline constexpr std::uint32_t kInline = 0x040;
inline constexpr std::uint32_t kRdmaReadSink = 0x080;
inline constexpr std::uint32_t kRdmaReadLocalInvalidate = 0x100;
inline constexpr std::uint32_t kDefer = 0x200;
inline constexpr std::uint32_t kAllowRemoteAtomic = 0x10000;  // beyond NDK
}  // namespace flag

namespace access {
inline constexpr std::uint32_t kLocalRead = 0;
inline constexpr std::uint32_t kLocalWrite = 1;
inline constexpr std::uint32_t kRemoteRead = 2;
inline constexpr std::uint32_t kRemoteWrite = 5;  // contains local write
inline constexpr std::uint32_t kRemoteWriteBit = 4;
inline constexpr std::uint32_t kRdmaReadSink = 8;
inline constexpr std::uint32_t kRemoteAtomicBit = 0x80;  // beyond NDK
inline constexpr std::uint32_t kRemoteAtomic = kRemoteAtomicBit | kLocalWrite;
// What makes a token worth to be told to a peer.
inline constexpr std::uint32_t kRemote = kRemoteRead | kRemoteWriteBit | kRemoteAtomicBit;
inline constexpr std::uint32_t kAll = 15 | kRemoteAtomicBit;
}  // namespace access

enum class Notify : std::uint32_t { errors = 0, any = 1, solicited = 2 };

// NDK's SGE. `length` is checked against 32 bits when a request is posted.
struct Segment {
    std::uint64_t address = 0;
    std::uint64_t length = 0;
    std::uint32_t token = 0;
};

// Sums of lengths that callers give: one that does not fit 64 bits exceeds every limit.
[[nodiscard]] constexpr std::uint64_t add_length(std::uint64_t total, std::uint64_t more) {
    return more > ~total ? ~std::uint64_t{0} : total + more;
}

// How a connection ended where no Terminate, system call or device says it.
enum class End : std::uint8_t {
    none,
    peer_closed,   // in order
    lost,          // the peer closed it, or it broke: the device does not tell
    not_made,      // refused or given up before it was complete
    timed_out,     // not complete in time
    disconnected,  // by this side, in order
    flushed,       // by this side's QueuePair.flush()
    closed,        // by this side: queue pair, connector or adapter
    overrun,       // of a completion queue
};

// Why a request failed, or a connection ended, as far as anybody knows.
struct Detail {
    // local: our protocol engine; peer: its Terminate; system: errno; device: an RDMA device
    enum class Source : std::uint8_t { none, local, peer, system, device, end };
    Source source = Source::none;
    std::uint8_t layer = 0;  // RDMAP 0, DDP 1, LLP 2 (RFC 5040 section 4.8)
    std::uint8_t error_type = 0;
    std::uint8_t code = 0;           // device: ibv_wc_status; end: an End
    std::uint16_t os_error = 0;      // errno when source is system
    std::uint32_t vendor_error = 0;  // device: the vendor's own code

    [[nodiscard]] static constexpr Detail of(End end) {
        Detail out;
        out.source = Source::end;
        out.code = static_cast<std::uint8_t>(end);
        return out;
    }
    [[nodiscard]] constexpr bool is(End end) const {
        return source == Source::end && code == static_cast<std::uint8_t>(end);
    }
};

// What the binding hangs on a queue pair: contexts that are objects. Lives as long as the queue
// pair or any of its requests.
class RequestContexts {
public:
    RequestContexts() = default;
    RequestContexts(const RequestContexts&) = delete;
    RequestContexts& operator=(const RequestContexts&) = delete;

    // A request with an object context has ended without a completion (silent success, or its
    // queue is gone). Any thread, never with the GIL needed.
    virtual void retire(std::uint64_t context) noexcept = 0;
    virtual void add_reference() noexcept = 0;
    // The last one frees the object, from any thread, without taking the GIL.
    virtual void release() noexcept = 0;

protected:
    ~RequestContexts() = default;
};

class Outstanding;

struct Completion {
    std::uint64_t context = 0;
    // Whoever polls the completion ends the request there, after the last look at its contexts.
    Outstanding* requests = nullptr;
    std::uint64_t immediate = 0;
    Status status = Status::success;
    OperationType type = OperationType::send;
    std::uint32_t bytes_transferred = 0;  // receives only
    std::uint32_t invalidated_token = 0;
    Detail detail;
    bool context_is_object = false;
    bool is_solicited = false;
    bool has_immediate = false;
};

// One request of the initiator queue, as the caller states it; spans are read during the call.
struct WorkRequest {
    OperationType type = OperationType::send;
    std::uint32_t flags = 0;
    std::span<const Segment> segments;
    std::uint64_t remote_address = 0;
    std::uint32_t remote_token = 0;  // also: the token that send_and_invalidate names
    bool invalidates = false;        // type send: Send with Invalidate
    bool context_is_object = false;
    bool has_immediate = false;  // type write: a write with immediate
    std::uint64_t context = 0;
    std::uint64_t operand = 0;  // the immediate; of an atomic, what is added or stored
    std::uint64_t compare = 0;  // compare_swap: what must be there
};

// An atomic works on a word of this many bytes, aligned to as many.
inline constexpr std::uint32_t kAtomicSize = 8;

[[nodiscard]] constexpr bool is_atomic(OperationType type) {
    return type >= OperationType::fetch_add;
}

struct ReceiveRequest {
    std::span<const Segment> segments;
    bool context_is_object = false;
    std::uint64_t context = 0;
};

struct QueuePairLimits {
    std::uint32_t receive_queue_depth = 128;
    std::uint32_t initiator_queue_depth = 128;
    std::uint32_t max_receive_sge = 4;
    std::uint32_t max_initiator_sge = 4;
    std::uint32_t inline_size = 256;
};

namespace adapter_flag {
inline constexpr std::uint32_t kInOrderDma = 0x001;
inline constexpr std::uint32_t kRdmaReadSinkNotRequired = 0x002;
inline constexpr std::uint32_t kCqInterruptModeration = 0x004;
inline constexpr std::uint32_t kMultiEngine = 0x008;
inline constexpr std::uint32_t kRdmaReadLocalInvalidate = 0x010;
inline constexpr std::uint32_t kCqResize = 0x100;
inline constexpr std::uint32_t kLoopbackConnections = 0x10000;
}  // namespace adapter_flag

// NDK_ADAPTER_INFO, in its order, behind the name under which the adapter is opened.
struct AdapterInfo {
    std::string name;
    std::string provider;
    std::uint32_t version_major = 1;
    std::uint32_t version_minor = 2;
    std::uint32_t vendor_id = 0;
    std::uint32_t device_id = 0;
    std::uint64_t max_registration_size = 0;
    std::uint64_t max_window_size = 0;
    std::uint32_t frmr_page_count = 0;
    std::uint32_t max_initiator_request_sge = 0;
    std::uint32_t max_receive_request_sge = 0;
    std::uint32_t max_read_request_sge = 0;
    std::uint32_t max_transfer_length = 0;
    std::uint32_t max_inline_data_size = 0;
    std::uint32_t max_inbound_read_limit = 0;
    std::uint32_t max_outbound_read_limit = 0;
    std::uint32_t max_receive_queue_depth = 0;
    std::uint32_t max_initiator_queue_depth = 0;
    std::uint32_t max_srq_depth = 0;
    std::uint32_t max_cq_depth = 0;
    std::uint32_t large_request_threshold = 0;
    std::uint32_t max_caller_data = 0;
    std::uint32_t max_callee_data = 0;
    std::uint32_t adapter_flags = 0;
    std::string rdma_technology;
    std::vector<std::string> features;  // optional functions present, by their API name
    std::uint32_t extensions = 0;       // extension::k*
    // Of this host, for listeners and for connects from here; the first serves two ends of one
    // host.
    std::vector<std::string> addresses;
};

}  // namespace ndv::core

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

// X(constant, NAME, value): the bit here, and the member of Python's Flag. Atomics are beyond NDK.
#define NDV_FLAG_LIST(X)                                           \
    X(kSilentSuccess, SILENT_SUCCESS, 0x001)                       \
    X(kReadFence, READ_FENCE, 0x002)                               \
    X(kSendAndSolicitEvent, SEND_AND_SOLICIT_EVENT, 0x004)         \
    X(kAllowRemoteRead, ALLOW_REMOTE_READ, 0x008)                  \
    X(kAllowLocalWrite, ALLOW_LOCAL_WRITE, 0x010)                  \
    X(kAllowRemoteWrite, ALLOW_REMOTE_WRITE, 0x030)                \
    X(kInline, INLINE, 0x040)                                      \
    X(kRdmaReadSink, RDMA_READ_SINK, 0x080)                        \
    X(kRdmaReadLocalInvalidate, RDMA_READ_LOCAL_INVALIDATE, 0x100) \
    X(kDefer, DEFER, 0x200)                                        \
    X(kAllowRemoteAtomic, ALLOW_REMOTE_ATOMIC, 0x10000)

// The same for Access. The rights to write, and to change by an atomic, contain local write.
#define NDV_ACCESS_LIST(X)              \
    X(kLocalRead, LOCAL_READ, 0)        \
    X(kLocalWrite, LOCAL_WRITE, 1)      \
    X(kRemoteRead, REMOTE_READ, 2)      \
    X(kRemoteWrite, REMOTE_WRITE, 5)    \
    X(kRdmaReadSink, RDMA_READ_SINK, 8) \
    X(kRemoteAtomic, REMOTE_ATOMIC, 0x81)

#define NDV_X(constant, name, value) inline constexpr std::uint32_t constant = value;
namespace flag {
NDV_FLAG_LIST(NDV_X)
// Of all that is posted by a WorkRequest.
inline constexpr std::uint32_t kCommon = kSilentSuccess | kReadFence | kDefer;
}  // namespace flag

namespace access {
NDV_ACCESS_LIST(NDV_X)
inline constexpr std::uint32_t kRemoteWriteBit = kRemoteWrite & ~kLocalWrite;
inline constexpr std::uint32_t kRemoteAtomicBit = kRemoteAtomic & ~kLocalWrite;
// What makes a token worth telling a peer.
inline constexpr std::uint32_t kRemote = kRemoteRead | kRemoteWriteBit | kRemoteAtomicBit;
inline constexpr std::uint32_t kAll = kLocalWrite | kRdmaReadSink | kRemote;
}  // namespace access
#undef NDV_X

// X(name, value, flags, remote right, variant, its flags). flags: those that a WorkRequest takes;
// 0: none posts it. remote right: what it needs at the peer. variant: the same with a token to
// invalidate or an immediate, and the flags that it takes besides.
#define NDV_OPERATION_LIST(X)                                                                      \
    X(receive, 0x1, 0, 0, nullptr, 0)                                                              \
    X(send, 0x2, flag::kCommon | flag::kInline | flag::kSendAndSolicitEvent, 0,                    \
      "send_and_invalidate", 0)                                                                    \
    X(fast_register, 0x4, 0, 0, nullptr, 0)                                                        \
    X(bind, 0x8, 0, 0, nullptr, 0)                                                                 \
    X(invalidate, 0x10, 0, 0, nullptr, 0)                                                          \
    /* Where the adapter lacks it, RDMA_READ_LOCAL_INVALIDATE is ignored, as NDK says. */          \
    X(read, 0x20, flag::kCommon | flag::kRdmaReadLocalInvalidate, access::kRemoteRead, nullptr, 0) \
    X(write, 0x40, flag::kCommon | flag::kInline, access::kRemoteWriteBit, "write_with_immediate", \
      flag::kSendAndSolicitEvent)                                                                  \
    X(receive_and_invalidate, 0x8001, 0, 0, nullptr, 0)                                            \
    /* Beyond NDK. */                                                                              \
    X(fetch_add, 0x10000, flag::kCommon, access::kRemoteAtomicBit, nullptr, 0)                     \
    X(compare_swap, 0x20000, flag::kCommon, access::kRemoteAtomicBit, nullptr, 0)

enum class OperationType : std::uint32_t {
#define NDV_X(name, value, ...) name = value,
    NDV_OPERATION_LIST(NDV_X)
#undef NDV_X
};

struct OperationRow {
    const char* name = "request";  // of what is no operation
    std::uint32_t flags = 0;
    std::uint32_t remote_right = 0;
    const char* variant = nullptr;
    std::uint32_t variant_flags = 0;
};

[[nodiscard]] constexpr OperationRow row_of(OperationType type) {
    switch (type) {
#define NDV_X(name, value, ...) \
    case OperationType::name:   \
        return {#name, __VA_ARGS__};
        NDV_OPERATION_LIST(NDV_X)
#undef NDV_X
    }
    return {};  // a number from outside
}

// Reads memory of the peer: is done when the answer is here, and takes a place of the read limits.
[[nodiscard]] constexpr bool is_answered(OperationType type) {
    return (row_of(type).remote_right & (access::kRemoteRead | access::kRemoteAtomicBit)) != 0;
}
[[nodiscard]] constexpr bool is_atomic(OperationType type) {
    return row_of(type).remote_right == access::kRemoteAtomicBit;
}

#define NDV_NOTIFY_LIST(X) \
    X(errors, 0)           \
    X(any, 1)              \
    X(solicited, 2)

enum class Notify : std::uint32_t {
#define NDV_X(name, value) name = value,
    NDV_NOTIFY_LIST(NDV_X)
#undef NDV_X
};

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

// X(name, sentence): how a connection ended where no Terminate, system call or device says it.
#define NDV_END_LIST(X)                                                          \
    X(none, "")                                                                  \
    X(peer_closed, "the peer ended the connection") /* in order */               \
    X(lost, "the connection was lost, or the peer ended it")                     \
    X(not_made, "the peer gave up before the connection was complete")           \
    X(timed_out, "the peer did not complete the connection in time")             \
    X(disconnected, "this side disconnected")                                    \
    X(flushed, "this side flushed the queue pair")                               \
    X(closed, "this side closed the connection") /* or queue pair, or adapter */ \
    X(overrun, "a completion queue of the queue pair has overrun")

enum class End : std::uint8_t {
#define NDV_X(name, sentence) name,
    NDV_END_LIST(NDV_X)
#undef NDV_X
};

// Why a request failed, or a connection ended, as far as it is known.
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
    // The poller ends the request there, after the last look at its contexts.
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
    // What the caller knows of the peer's buffer: its size, and the rights that it grants.
    std::uint64_t remote_size = ~std::uint64_t{0};
    std::uint32_t remote_rights = access::kAll;
    // Where it is set: a request that is done when the call that posts it returns says so there,
    // and has no completion. The provider decides which are; all others are as ever.
    bool* done_at_once = nullptr;

    [[nodiscard]] bool is_variant() const { return invalidates || has_immediate; }
};

// A piece of two buffers, by its offsets in them.
struct Span {
    std::uint64_t local = 0;
    std::uint64_t remote = 0;
    std::uint64_t length = 0;
};

// An atomic works on a word of this many bytes, aligned to as many.
inline constexpr std::uint32_t kAtomicSize = 8;

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

// SPDX-License-Identifier: Apache-2.0
// The one list of NDK statuses: C++ enum, text, Python enum and exception map come from it.
// Values are the NTSTATUS numbers that NDKPI names; bit 31 set means failure.
#pragma once

#include <cstdint>
#include <string_view>

namespace ndv {

// X(name, value, exception, meaning). The exception is a class of ndverbs.errors. The meaning ends
// up in messages: lower case, no full stop.
#define NDV_STATUS_LIST(X)                                                                      \
    X(success, 0x00000000, RdmaError, "success")                                                \
    X(pending, 0x00000103, RdmaError, "pending")                                                \
    X(buffer_overflow, 0x80000005, RdmaError, "buffer or queue overflow")                       \
    X(device_busy, 0x80000011, RdmaError, "device busy")                                        \
    X(no_more_entries, 0x8000001A, RdmaError, "queue full")                                     \
    X(unsuccessful, 0xC0000001, RdmaError, "unsuccessful")                                      \
    X(not_implemented, 0xC0000002, RdmaError, "not implemented")                                \
    X(access_violation, 0xC0000005, RdmaPermissionError, "access violation")                    \
    X(invalid_parameter, 0xC000000D, RdmaValueError, "invalid parameter")                       \
    X(invalid_device_request, 0xC0000010, RdmaError, "invalid device request")                  \
    X(access_denied, 0xC0000022, RdmaPermissionError, "access denied")                          \
    X(buffer_too_small, 0xC0000023, RdmaError, "buffer too small")                              \
    X(invalid_parameter_mix, 0xC0000030, RdmaValueError, "invalid mix of parameters")           \
    X(data_overrun, 0xC000003C, RdmaValueError, "too many segments")                            \
    X(sharing_violation, 0xC0000043, RdmaError, "address already in use")                       \
    X(insufficient_resources, 0xC000009A, RdmaError, "insufficient resources")                  \
    X(device_not_ready, 0xC00000A3, RdmaError, "device not ready")                              \
    X(io_timeout, 0xC00000B5, RdmaTimeoutError, "timed out")                                    \
    X(file_forced_closed, 0xC00000B6, ClosedError, "object is closed")                          \
    X(not_supported, 0xC00000BB, RdmaError, "not supported")                                    \
    X(request_not_accepted, 0xC00000D0, RdmaConnectionRefusedError, "request not accepted")     \
    X(internal_error, 0xC00000E5, RdmaError, "internal error")                                  \
    X(cancelled, 0xC0000120, RdmaError, "cancelled")                                            \
    X(remote_resources, 0xC000013D, RdmaError, "the request caused an error at the peer")       \
    X(invalid_address, 0xC0000141, RdmaValueError, "invalid address")                           \
    X(invalid_device_state, 0xC0000184, RdmaError, "invalid device state")                      \
    X(invalid_buffer_size, 0xC0000206, RdmaValueError, "invalid buffer size")                   \
    X(too_many_addresses, 0xC0000209, RdmaError, "no free port")                                \
    X(address_already_exists, 0xC000020A, RdmaError, "address pair already connected")          \
    X(connection_disconnected, 0xC000020C, RdmaConnectionResetError, "connection disconnected") \
    X(connection_reset, 0xC000020D, RdmaConnectionResetError, "connection reset by the peer")   \
    X(data_not_accepted, 0xC000021B, RdmaError, "data not accepted")                            \
    X(connection_refused, 0xC0000236, RdmaConnectionRefusedError, "connection refused")         \
    X(connection_invalid, 0xC000023A, RdmaError, "not connected")                               \
    X(connection_active, 0xC000023B, RdmaError, "already connected")                            \
    X(network_unreachable, 0xC000023C, RdmaError, "network unreachable")                        \
    X(host_unreachable, 0xC000023D, RdmaError, "host unreachable")                              \
    X(connection_aborted, 0xC0000241, RdmaConnectionAbortedError, "connection aborted")         \
    X(no_match, 0xC0000272, RdmaError, "no match")                                              \
    X(device_removed, 0xC00002B6, RdmaError, "device removed")                                  \
    X(nointerface, 0xC00002B9, RdmaValueError, "no such interface")                             \
    X(implementation_limit, 0xC000042B, RdmaError, "implementation limit")

enum class Status : std::uint32_t {
#define NDV_X(name, value, exception, meaning) name = value,
    NDV_STATUS_LIST(NDV_X)
#undef NDV_X
};

// Bit 31 is the failure bit: buffer_overflow is a warning in NT terms and still a failure here.
[[nodiscard]] constexpr bool is_failure(Status status) {
    return (static_cast<std::uint32_t>(status) & 0x80000000U) != 0;
}

[[nodiscard]] constexpr std::string_view status_name(Status status) {
    switch (status) {
#define NDV_X(name, value, exception, meaning) \
    case Status::name:                         \
        return #name;
        NDV_STATUS_LIST(NDV_X)
#undef NDV_X
    }
    return "unknown";
}

[[nodiscard]] constexpr std::string_view status_meaning(Status status) {
    switch (status) {
#define NDV_X(name, value, exception, meaning) \
    case Status::name:                         \
        return meaning;
        NDV_STATUS_LIST(NDV_X)
#undef NDV_X
    }
    return "unknown status";
}

}  // namespace ndv

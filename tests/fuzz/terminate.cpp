// SPDX-License-Identifier: Apache-2.0
// libFuzzer target: the Terminate body, fed with anything. What parses can be emitted, and what
// was emitted parses to the same again.
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "iwarp/terminate.hpp"

namespace {

using ndv::iwarp::TerminateBody;

void require(bool is_true, const char* sentence) {
    if (is_true) return;
    std::fprintf(stderr, "broken promise: %s\n", sentence);
    std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 1) return 0;
    const bool before_first_fpdu = (data[0] & 1U) != 0;
    const auto bytes = std::as_bytes(std::span(data, size)).subspan(1);
    TerminateBody body;
    if (!TerminateBody::parse(bytes, before_first_fpdu, body)) return 0;
    std::array<std::byte, TerminateBody::kMaxSize> out{};
    const std::size_t emitted = body.emit(out);
    require(emitted >= TerminateBody::kMinSize && emitted <= TerminateBody::kMaxSize,
            "an emitted body has a size within its limits");
    TerminateBody again;
    require(TerminateBody::parse(std::span(out).first(emitted), before_first_fpdu, again),
            "an emitted body parses");
    // Without header bits the order of the control word is read, not stated.
    if (body.has_segment_length || body.ddp_header_size != 0 || body.has_read_request) {
        require(again == body, "an emitted body is the one that was parsed");
    } else if (!body.swapped) {
        require(again.error == body.error, "an emitted code is the one that was parsed");
    }
    return 0;
}

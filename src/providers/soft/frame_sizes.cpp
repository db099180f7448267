// SPDX-License-Identifier: Apache-2.0
// Lengths of start-up frames and FPDUs.
#include "providers/soft/frame_sizes.hpp"

#include "base/bytes.hpp"
#include "iwarp/ddp.hpp"
#include "iwarp/mpa.hpp"

namespace ndv::soft {

std::size_t FrameSizes::size_of(std::span<const std::byte> bytes) {
    if (bytes.empty()) return 0;
    if (phase_ == Phase::start_up) {
        if (bytes.size() >= iwarp::MpaHeader::kSize) {
            iwarp::MpaHeader header;
            if (iwarp::MpaHeader::parse(bytes.first<iwarp::MpaHeader::kSize>(), header) ==
                iwarp::MpaParse::ok) {
                has_crc_ = header.crc;
                return iwarp::MpaHeader::kSize + header.private_data_length;
            }
            phase_ = Phase::foreign;
        } else if (!iwarp::MpaHeader::may_begin(iwarp::MpaKind::request, bytes) &&
                   !iwarp::MpaHeader::may_begin(iwarp::MpaKind::reply, bytes)) {
            phase_ = Phase::foreign;
        }
    }
    if (phase_ == Phase::foreign) return bytes.size();
    if (phase_ == Phase::start_up || bytes.size() < iwarp::kLengthSize) return 0;
    return iwarp::fpdu_size(base::load_be<std::uint16_t>(bytes.data()));
}

}  // namespace ndv::soft

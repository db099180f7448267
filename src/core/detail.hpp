// SPDX-License-Identifier: Apache-2.0
// Why something failed or ended: its sentence, its errno, and one word that holds it.
#pragma once

#include <cstdint>
#include <string>

#include "core/types.hpp"

namespace ndv::core {

// Empty when the source is none.
[[nodiscard]] std::string detail_text(const Detail& detail);
// What a socket would say of a connection that ended so: by the peer or the network ECONNRESET, by
// this side ECONNABORTED. It chooses the exception's class.
[[nodiscard]] int error_number_of(const Detail& cause);
// Not 0 unless the source is none.
[[nodiscard]] std::uint64_t packed(const Detail& detail);
[[nodiscard]] Detail unpacked(std::uint64_t word);

}  // namespace ndv::core

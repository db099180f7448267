// SPDX-License-Identifier: Apache-2.0
// What an adapter has beyond NDK, by name: the project's own list, behind query_extension() and
// AdapterInfo::extensions.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "base/expected.hpp"
#include "core/types.hpp"

namespace ndv::core::extension {

inline constexpr std::uint32_t kAtomics = 1;
inline constexpr std::uint32_t kImmediate = 2;
inline constexpr std::uint32_t kRawHandles = 4;

struct Entry {
    std::uint32_t bit;
    const char* name;
    std::array<const char*, 2> calls;  // of a queue pair, mostly; null: none
};
inline constexpr std::array<Entry, 3> kList = {{
    {kAtomics, "atomics", {"fetch_add", "compare_swap"}},
    {kImmediate, "immediate", {"write_with_immediate", nullptr}},
    {kRawHandles, "raw_handles", {"raw_handle", nullptr}},
}};

}  // namespace ndv::core::extension

namespace ndv::core {

// NOT_SUPPORTED where the adapter has no extension of that name.
[[nodiscard]] Expected<const extension::Entry*> find_extension(const AdapterInfo& info,
                                                               const std::string& name);

}  // namespace ndv::core

// SPDX-License-Identifier: Apache-2.0
// Messages with descriptors between processes of one host, whose kernel says who sent them.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <array>
#include <cstddef>
#include <optional>
#include <span>
#include <string>

#include "base/descriptor.hpp"

namespace ndv::soft {

struct Parcel {
    static constexpr std::size_t kMost = 5;
    std::array<base::Descriptor, kMost> descriptors;
    std::size_t count = 0;
    pid_t pid = 0;  // here; 0: it has no number in this namespace
};

// A pair of connected ends; neither blocks.
[[nodiscard]] bool make_pair(base::Descriptor& first, base::Descriptor& second);
// An end that hears under a name of its network namespace, until it closes.
[[nodiscard]] base::Descriptor hear_under(const std::string& name);
// Whether this process would have others of its user in its memory.
[[nodiscard]] bool may_share_memory();

// To who hears under `name`, or where that is empty to the other end. False: it did not go.
[[nodiscard]] bool send_parcel(int socket, const std::string& name,
                               std::span<const std::byte> bytes, std::span<const int> descriptors);
// Takes one, if there is one of this size and number, from this process's user.
[[nodiscard]] std::optional<Parcel> take_parcel(int socket, std::span<std::byte> bytes,
                                                std::size_t descriptors);

}  // namespace ndv::soft

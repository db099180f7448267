// SPDX-License-Identifier: Apache-2.0
// Fork: the child closes our descriptors (and does nothing else), so that peers notice when the
// parent dies, and every object knows that it belongs to another process.
#pragma once

namespace ndv::base {

// Increases by one in every forked child; cheap enough for every entry point.
[[nodiscard]] unsigned fork_generation() noexcept;

// Descriptors named here are closed in a forked child. Register after creation; forget before a
// library closes it.
void register_descriptor(int fd);
void forget_descriptor(int fd) noexcept;
// Forgets and closes it, with no fork in between.
void close_descriptor(int fd) noexcept;

}  // namespace ndv::base

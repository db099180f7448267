// SPDX-License-Identifier: Apache-2.0
// The one place where ndv::Error becomes a Python exception. Which class a status becomes is
// decided by the table in python/ndverbs/errors.py.
#pragma once

#include <string>
#include <utility>

#include "base/expected.hpp"

namespace ndv::bindings {

// Imports what exceptions need, so that they can be raised while the interpreter ends.
void prepare_errors();

[[noreturn]] void raise(const Error& error);
[[noreturn]] void raise(Status status, std::string what, std::string hint = {});
// BufferError whatever the status: lifetime, contiguity, read-only memory.
[[noreturn]] void raise_buffer_error(Status status, std::string what, std::string hint = {});

template <typename T>
[[nodiscard]] T value_or_raise(Expected<T> expected) {
    if (!expected) raise(expected.error());
    return std::move(*expected);
}

inline void check_or_raise(const Expected<void>& expected) {
    if (!expected) raise(expected.error());
}

}  // namespace ndv::bindings

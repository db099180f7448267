// SPDX-License-Identifier: Apache-2.0
// Error values below bindings/: Error says what failed and why, Expected<T> carries a value or
// an Error with std::expected's member names. Nothing here throws; value() on an error aborts.
#pragma once

#include <cstdlib>
#include <string>
#include <utility>
#include <variant>

#include "base/status.hpp"

namespace ndv {

struct Error {
    Status status = Status::unsuccessful;
    std::string what;  // what failed, on what, with which values
    std::string hint;  // what to try; may be empty
    int os_error = 0;  // errno where a system call said no
};

struct Unexpected {
    Error error;
};

[[nodiscard]] inline Unexpected fail(Status status, std::string what, std::string hint = {},
                                     int os_error = 0) {
    return {Error{status, std::move(what), std::move(hint), os_error}};
}

template <typename T>
class [[nodiscard]] Expected {
public:
    Expected(T value) : state_(std::in_place_index<0>, std::move(value)) {}
    Expected(Unexpected unexpected) : state_(std::in_place_index<1>, std::move(unexpected.error)) {}

    [[nodiscard]] bool has_value() const { return state_.index() == 0; }
    explicit operator bool() const { return has_value(); }
    [[nodiscard]] T& value() {
        if (!has_value()) std::abort();
        return *std::get_if<0>(&state_);
    }
    [[nodiscard]] T& operator*() { return value(); }
    [[nodiscard]] T* operator->() { return &value(); }
    [[nodiscard]] const Error& error() const {
        if (has_value()) std::abort();
        return *std::get_if<1>(&state_);
    }

private:
    std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Expected<void> {
public:
    Expected() = default;
    Expected(Unexpected unexpected) : error_(std::move(unexpected.error)), has_value_(false) {}

    [[nodiscard]] bool has_value() const { return has_value_; }
    explicit operator bool() const { return has_value_; }
    [[nodiscard]] const Error& error() const {
        if (has_value_) std::abort();
        return error_;
    }

private:
    Error error_;
    bool has_value_ = true;
};

}  // namespace ndv

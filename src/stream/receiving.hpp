// SPDX-License-Identifier: Apache-2.0
// How a stream's data is received: by readers that copy, and by receives that wait. With the gate
// of the stream, but for copies.
#pragma once

#include <deque>
#include <memory>
#include <optional>

#include "base/mutex.hpp"
#include "stream/channel.hpp"
#include "stream/engine.hpp"
#include "stream/transfer.hpp"

namespace ndv::stream {

class Receiving {
public:
    explicit Receiving(Outcomes& outcomes) : outcomes_(outcomes) {}

    [[nodiscard]] bool has_waiting() const { return !waiting_.empty(); }
    void add(const std::shared_ptr<Transfer>& transfer) { waiting_.push_back(transfer); }
    void cancel(const std::shared_ptr<Transfer>& transfer, const Error& error);
    // Receives take what there is, or its end.
    void fill(Engine& engine, const Channel& channel);
    // The program will not read it, and the peer need not wait for that.
    void discard(Engine& engine);
    // Nothing more will come: they are done with what they have, or fail by `error`, however much
    // they have.
    void end(const std::optional<Error>& error);

    bool is_shut = false;     // the program wants no more
    bool is_copying = false;  // a reader, outside the gate
    base::Mutex reader;       // one reader at a time copies outside the gate; taken before it

private:
    Outcomes& outcomes_;
    std::deque<std::shared_ptr<Transfer>> waiting_;
};

}  // namespace ndv::stream

// SPDX-License-Identifier: Apache-2.0
// What all NDK objects share: shared ownership (a successor holds its antecedents) and close().
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "base/expected.hpp"
#include "base/fork.hpp"

namespace ndv::core {

class Object : public std::enable_shared_from_this<Object> {
public:
    Object() = default;
    Object(const Object&) = delete;
    Object& operator=(const Object&) = delete;
    virtual ~Object() = default;

    // Idempotent; of any object but the adapter it neither blocks nor fails. The resource itself
    // goes when its last successor is gone.
    void close() {
        // acq_rel: pairs with is_closed().
        if (!closed_.exchange(true, std::memory_order_acq_rel)) {
            do_close();
        } else {
            await_close();
        }
    }
    [[nodiscard]] bool is_closed() const {
        return closed_.load(std::memory_order_acquire);  // pairs with close()
    }
    // Made by another process: this one may only drop references.
    [[nodiscard]] bool is_foreign() const { return fork_generation_ != base::fork_generation(); }

    // Address of the device library's own object, for programs that call the library beside us;
    // 0: there is none, or not at the moment.
    [[nodiscard]] virtual std::uintptr_t raw_handle() const { return 0; }
    // close() and the last reference's end ask a device for things that may take it milliseconds:
    // a thread that holds what others need lets go of it before.
    [[nodiscard]] virtual bool waits_for_device() const { return false; }

protected:
    virtual void do_close() = 0;
    // Another thread closes, or closed: returns when that is done, where closing is a barrier.
    virtual void await_close() {}

private:
    std::atomic<bool> closed_{false};
    const unsigned fork_generation_ = base::fork_generation();
};

// The error of a call on an object that is closed.
[[nodiscard]] inline Unexpected closed(const char* call, const char* object) {
    return fail(Status::file_forced_closed, std::string(call) + ": the " + object + " is closed");
}
// And of a call that the provider lacks.
[[nodiscard]] inline Unexpected absent(const char* call) {
    return fail(Status::not_supported, std::string(call) + ": the adapter cannot do it",
                "adapter.info.features tells what it can");
}

}  // namespace ndv::core

// SPDX-License-Identifier: Apache-2.0
// The adapter's registry of descendants, and its close barrier.
#include "core/adapter.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <string>

namespace ndv::core {

void Adapter::adopt(const std::shared_ptr<Object>& object) {
    {
        const base::Lock lock(mutex_);
        pruning_.prune(descendants_, [](const auto& weak) { return weak.expired(); });
        descendants_.push_back(object);
    }
    // The last round of do_close() may have been before.
    if (is_closed()) object->close();
}

Expected<std::shared_ptr<ProtectionDomain>> Adapter::create_pd() {
    if (is_closed()) return closed("create_pd", "adapter");
    return adopted(do_create_pd());
}

Expected<std::shared_ptr<CompletionQueue>> Adapter::create_cq(std::uint32_t depth) {
    if (is_closed()) return closed("create_cq", "adapter");
    if (depth == 0 || depth > info().max_cq_depth) {
        return fail(Status::invalid_parameter, "create_cq: depth " + std::to_string(depth) +
                                                   " is not in 1 to " +
                                                   std::to_string(info().max_cq_depth));
    }
    return adopted(do_create_cq(depth));
}

Expected<std::shared_ptr<Connector>> Adapter::create_connector() {
    if (is_closed()) return closed("create_connector", "adapter");
    return adopted(do_create_connector());
}

Expected<std::shared_ptr<Listener>> Adapter::create_listener() {
    if (is_closed()) return closed("create_listener", "adapter");
    return adopted(do_create_listener());
}

Expected<std::shared_ptr<SharedEndpoint>> Adapter::create_shared_endpoint(
    const SocketAddress& address) {
    if (is_closed()) return closed("create_shared_endpoint", "adapter");
    return adopted(do_create_shared_endpoint(address));
}

Expected<std::shared_ptr<std::byte>> Adapter::allocate(std::size_t size) {
    if (is_closed()) return closed("alloc_array", "adapter");
    size = std::max<std::size_t>(size, 1);
    auto made = do_allocate(size);
    if (!made || *made) return made;
    void* const at =
        ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) {
        return fail(Status::insufficient_resources,
                    "no memory for " + std::to_string(size) + " bytes",
                    "allocate less, or let arrays go", errno);
    }
    return std::shared_ptr<std::byte>(static_cast<std::byte*>(at),
                                      [size](std::byte* gone) { ::munmap(gone, size); });
}

void Adapter::do_close() {
    // However this ends: others wait for it.
    struct Ended {
        Adapter* const self;
        ~Ended() {
            const base::Lock lock(self->mutex_);
            self->has_ended_ = true;
            self->ended_.notify_all();
        }
    };
    const Ended ended{this};
    // Closing may create nothing new: creation checks is_closed(), which is set by now; what is
    // being made meanwhile is adopted, and met by the next round or closed there.
    while (true) {
        std::vector<std::weak_ptr<Object>> descendants;
        {
            const base::Lock lock(mutex_);
            descendants.swap(descendants_);
        }
        if (descendants.empty()) break;
        for (auto weak = descendants.rbegin(); weak != descendants.rend(); ++weak) {
            const auto object = weak->lock();
            if (object == nullptr) continue;
            try {
                object->close();
            } catch (const std::bad_alloc&) {
                // Its end does the rest; the others must not wait for memory.
            }
        }
    }
    stop();
}

void Adapter::await_close() {
    base::UniqueLock lock(mutex_);
    while (!has_ended_) ended_.wait(lock.native());
}

}  // namespace ndv::core

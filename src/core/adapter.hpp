// SPDX-License-Identifier: Apache-2.0
// The adapter: the root of all objects of one opened device, and the one barrier that ends them.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/expected.hpp"
#include "base/live.hpp"
#include "base/mutex.hpp"
#include "base/pruning.hpp"
#include "core/callback_queue.hpp"
#include "core/completion_queue.hpp"
#include "core/connector.hpp"
#include "core/endpoints.hpp"
#include "core/listener.hpp"
#include "core/mapping.hpp"
#include "core/memory.hpp"
#include "core/object.hpp"
#include "core/queue_pair.hpp"
#include "core/types.hpp"

namespace ndv::core {

// What may carry a connection between two ends of one host: nothing but frames, memory that both
// map, or that and the kernel's copies between processes.
enum class Direct : std::uint8_t { off, no_vm, automatic };

struct AdapterOptions {
    std::string address;      // what follows the provider's name: "soft:192.0.2.1"
    double keepalive_s = 30;  // a dead peer on another host ends its connections within this
    std::optional<bool> crc;  // ask for MPA's CRC; none: when the peer is another host
    Direct direct = Direct::automatic;  // where the provider can
    std::string capture_path;           // not empty: a pcap of every stream from its first byte
    std::string capture_folder;         // not empty: where a pcap with a name of its own is made
};

class Adapter : public Object, base::Live<base::LiveKind::adapter> {
public:
    [[nodiscard]] virtual const AdapterInfo& info() const = 0;
    [[nodiscard]] virtual std::map<std::string, std::uint64_t> stats() const = 0;

    [[nodiscard]] Expected<std::shared_ptr<ProtectionDomain>> create_pd();
    [[nodiscard]] Expected<std::shared_ptr<CompletionQueue>> create_cq(std::uint32_t depth);
    [[nodiscard]] Expected<std::shared_ptr<Connector>> create_connector();
    [[nodiscard]] Expected<std::shared_ptr<Listener>> create_listener();
    [[nodiscard]] Expected<std::shared_ptr<SharedEndpoint>> create_shared_endpoint(
        const SocketAddress& address);
    // Takes over the caller's reference to `hold`, also when it fails.
    [[nodiscard]] Expected<std::shared_ptr<LogicalAddressMapping>> build_lam(BufferHold* hold);
    // Where this process sees the page at a logical address; may be used as a base address.
    [[nodiscard]] virtual Expected<std::uint64_t> address_of(std::uint64_t) const {
        return absent("fast_register");
    }

    // Zeroed, from a page's beginning on, until the last reference goes; where the provider can, so
    // that peers of this host map it.
    [[nodiscard]] Expected<std::shared_ptr<std::byte>> allocate(std::size_t size);

    // Registers a descendant for close(): every object of this adapter passes here once.
    void adopt(const std::shared_ptr<Object>& object);

    [[nodiscard]] CallbackQueue& callbacks() { return callbacks_; }

protected:
    [[nodiscard]] virtual Expected<std::shared_ptr<ProtectionDomain>> do_create_pd() = 0;
    [[nodiscard]] virtual Expected<std::shared_ptr<CompletionQueue>> do_create_cq(
        std::uint32_t depth) = 0;
    [[nodiscard]] virtual Expected<std::shared_ptr<Connector>> do_create_connector() = 0;
    [[nodiscard]] virtual Expected<std::shared_ptr<Listener>> do_create_listener() = 0;
    // Optional.
    [[nodiscard]] virtual Expected<std::shared_ptr<SharedEndpoint>> do_create_shared_endpoint(
        const SocketAddress&) {
        return absent("create_shared_endpoint");
    }
    // Optional; takes the reference over.
    [[nodiscard]] virtual Expected<std::shared_ptr<LogicalAddressMapping>> do_build_lam(
        BufferHold* hold);
    // Null: ordinary memory will do.
    [[nodiscard]] virtual Expected<std::shared_ptr<std::byte>> do_allocate(std::size_t) {
        return std::shared_ptr<std::byte>();
    }
    // Waits for lingering connections and ends progress.
    virtual void stop() = 0;
    // Blocks: closes every descendant, newest first, then stop().
    void do_close() override;
    void await_close() override;

private:
    template <typename T>
    [[nodiscard]] Expected<std::shared_ptr<T>> adopted(Expected<std::shared_ptr<T>> made) {
        if (made) adopt(*made);
        return made;
    }

    base::Mutex mutex_;
    std::vector<std::weak_ptr<Object>> descendants_ NDV_GUARDED_BY(mutex_);
    base::Pruning pruning_ NDV_GUARDED_BY(mutex_);
    bool has_ended_ NDV_GUARDED_BY(mutex_) = false;
    std::condition_variable ended_;
    CallbackQueue callbacks_;
};

}  // namespace ndv::core

// SPDX-License-Identifier: Apache-2.0
// rdma_cm: the one event channel of an adapter, served by the progress thread, and owners of
// rdma_cm_ids that know the observer of their events.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/mutex.hpp"
#include "core/address.hpp"
#include "providers/verbs/abi/functions.hpp"
#include "providers/verbs/parts.hpp"

namespace ndv::verbs {

class CmId;

// rdma_cm chooses ports without asking TCP, which iWARP binds to them and which may have them: so
// often another one is tried.
inline constexpr int kMorePorts = 4;

// As rdma_cm takes a timeout.
[[nodiscard]] inline int milliseconds_of(std::chrono::nanoseconds time) {
    const auto count = std::chrono::ceil<std::chrono::milliseconds>(time).count();
    return static_cast<int>(std::clamp<std::int64_t>(count, 1, 1'000'000'000));
}

// The name of the device that rdma_cm would use to reach an address; empty: none within a second.
[[nodiscard]] std::string device_towards(const core::SocketAddress& peer);

// Which addresses of this host rdma_cm binds to which device: asked once for all devices, because
// a host may have hundreds of addresses.
class AddressBook {
public:
    [[nodiscard]] std::vector<std::string> of(const std::string& device);

private:
    std::optional<std::map<std::string, std::vector<std::string>>> known_;
};

// On the progress thread. What is in `event` is valid during the call only.
class CmObserver {
public:
    CmObserver() = default;
    CmObserver(const CmObserver&) = delete;
    CmObserver& operator=(const CmObserver&) = delete;
    virtual ~CmObserver() = default;

    // `incoming` is the connection of a CONNECT_REQUEST, else null.
    virtual void on_cm_event(const rdma_cm_event& event, std::shared_ptr<CmId> incoming) = 0;
};

class CmChannel final : public Member, public std::enable_shared_from_this<CmChannel> {
public:
    [[nodiscard]] static Expected<std::shared_ptr<CmChannel>> open(
        const std::shared_ptr<AdapterParts>& parts);
    CmChannel(rdma_event_channel* channel, const std::shared_ptr<AdapterParts>& parts);
    ~CmChannel() override;

    [[nodiscard]] rdma_event_channel* get() const { return channel_; }

    // Member.
    void on_ready() override;
    [[nodiscard]] std::uint32_t wanted() const override;

private:
    // `observer`: a reference to the one that the event was handed to.
    void dispatch(const rdma_cm_event& event, std::shared_ptr<CmObserver>& observer);

    rdma_event_channel* const channel_;
    // Not parts: those hold this.
    const std::shared_ptr<Device> device_;
    const std::shared_ptr<Worker> worker_;
};

class CmId {
public:
    [[nodiscard]] static Expected<std::shared_ptr<CmId>> create(const AdapterParts& parts,
                                                                std::weak_ptr<CmObserver> observer);
    // Takes over an id of a CONNECT_REQUEST.
    CmId(rdma_cm_id* id, std::shared_ptr<CmChannel> channel, std::shared_ptr<Worker> worker,
         std::shared_ptr<Device> device);
    CmId(const CmId&) = delete;
    CmId& operator=(const CmId&) = delete;
    // Destroyed on the worker thread, because that may block; no event comes afterwards.
    ~CmId();

    [[nodiscard]] rdma_cm_id* get() const { return id_; }
    void set_observer(std::weak_ptr<CmObserver> observer);
    // Whether rdma_cm has chosen this adapter's device.
    [[nodiscard]] bool is_on(const Device& device) const;
    [[nodiscard]] core::SocketAddress local_address() const;
    [[nodiscard]] core::SocketAddress peer_address() const;

    // The context of an rdma_cm_id: outlives it.
    struct Binding {
        base::Mutex mutex;
        std::weak_ptr<CmObserver> observer NDV_GUARDED_BY(mutex);
    };

private:
    rdma_cm_id* const id_;
    const std::shared_ptr<CmChannel> channel_;
    const std::shared_ptr<Worker> worker_;
    const std::shared_ptr<Device> device_;
    std::unique_ptr<Binding> binding_ = std::make_unique<Binding>();
};

}  // namespace ndv::verbs

// SPDX-License-Identifier: Apache-2.0
// What a device reports by itself: broken queues, broken queue pairs, its own end.
#pragma once

#include <memory>
#include <unordered_map>

#include "base/expected.hpp"
#include "base/mutex.hpp"
#include "core/object.hpp"
#include "core/progress.hpp"
#include "providers/verbs/device.hpp"

namespace ndv::verbs {

class AsyncEvents final : public core::Member, public std::enable_shared_from_this<AsyncEvents> {
public:
    explicit AsyncEvents(std::shared_ptr<Device> device) : device_(std::move(device)) {}
    // From now on on the progress thread, which outlives this.
    [[nodiscard]] Expected<void> start(core::Progress& progress);

    // The owner that is notified of a handle's events; forget() it before it is destroyed.
    void watch(const void* handle, std::weak_ptr<core::Object> owner);
    void forget(const void* handle);

    // Member.
    void on_ready() override;
    [[nodiscard]] std::uint32_t wanted() const override;

private:
    // `about`: a reference to what the event is about.
    void dispatch(const ibv_async_event& event, std::shared_ptr<core::Object>& about);
    // A queue pair, completion queue or shared receive queue, by its handle.
    template <typename Owner>
    [[nodiscard]] Owner* find(const void* handle, std::shared_ptr<core::Object>& about);

    const std::shared_ptr<Device> device_;
    core::Progress* progress_ = nullptr;
    base::Mutex mutex_;
    std::unordered_map<const void*, std::weak_ptr<core::Object>> owners_ NDV_GUARDED_BY(mutex_);
};

}  // namespace ndv::verbs

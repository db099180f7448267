// SPDX-License-Identifier: Apache-2.0
// Opening and closing a verbs adapter, and its counters.
#include "providers/verbs/adapter.hpp"

#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include "providers/verbs/async_events.hpp"
#include "providers/verbs/cm.hpp"
#include "providers/verbs/completion_queue.hpp"
#include "providers/verbs/connector.hpp"
#include "providers/verbs/endpoints.hpp"
#include "providers/verbs/listener.hpp"
#include "providers/verbs/loader.hpp"
#include "providers/verbs/logical_memory.hpp"
#include "providers/verbs/memory.hpp"

namespace ndv::verbs {

Adapter::Adapter(std::shared_ptr<AdapterParts> parts) : parts_(std::move(parts)) {}

Adapter::~Adapter() {
    if (!is_foreign()) close();
}

// The worker first: destroying an rdma_cm_id waits until the progress thread has acknowledged its
// events.
void Adapter::stop() {
    parts_->worker->stop();
    parts_->progress->stop();
}

std::map<std::string, std::uint64_t> Adapter::stats() const {
    std::map<std::string, std::uint64_t> all = parts_->counters.read();
    // What the device counts, of all its users, by the kernel's names.
    const std::string port = "/sys/class/infiniband/" + parts_->device->name() + "/ports/" +
                             std::to_string(parts_->device->port());
    for (const char* const folder : {"/counters", "/hw_counters"}) {
        std::error_code error;
        for (const auto& entry : std::filesystem::directory_iterator(port + folder, error)) {
            std::uint64_t value = 0;
            if (std::ifstream(entry.path()) >> value) {
                all["device_" + entry.path().filename().string()] = value;
            }
        }
    }
    return all;
}

Expected<std::shared_ptr<core::ProtectionDomain>> Adapter::do_create_pd() {
    auto made = ProtectionDomain::create(parts_, weak_from_this_adapter());
    if (!made) return Unexpected{made.error()};
    return std::shared_ptr<core::ProtectionDomain>(std::move(*made));
}

Expected<std::shared_ptr<core::CompletionQueue>> Adapter::do_create_cq(std::uint32_t depth) {
    auto made = CompletionQueue::create(depth, parts_);
    if (!made) return Unexpected{made.error()};
    return std::shared_ptr<core::CompletionQueue>(std::move(*made));
}

Expected<std::shared_ptr<core::Connector>> Adapter::do_create_connector() {
    return std::shared_ptr<core::Connector>(std::make_shared<Connector>(parts_));
}

Expected<std::shared_ptr<core::Listener>> Adapter::do_create_listener() {
    return std::shared_ptr<core::Listener>(
        std::make_shared<Listener>(parts_, weak_from_this_adapter()));
}

Expected<std::shared_ptr<core::SharedEndpoint>> Adapter::do_create_shared_endpoint(
    const core::SocketAddress& address) {
    return SharedEndpoint::create(parts_, address);
}

Expected<std::shared_ptr<core::LogicalAddressMapping>> Adapter::do_build_lam(
    core::BufferHold* hold) {
    return LogicalAddressMapping::build(parts_->lams, hold);
}

Expected<std::uint64_t> Adapter::address_of(std::uint64_t logical_page) const {
    const auto memory = parts_->lams->find(logical_page);
    if (memory == nullptr) {
        return fail(Status::access_violation,
                    "fast_register: the first page is of no mapping that is built",
                    "use pages of a LogicalAddressMapping");
    }
    return memory->page_address(logical_page);
}

std::weak_ptr<core::Adapter> Adapter::weak_from_this_adapter() {
    return std::static_pointer_cast<Adapter>(shared_from_this());
}

std::string VerbsProvider::find_device(const std::optional<core::SocketAddress>& peer) const {
    if (!load()) return {};
    const std::string towards = peer ? device_towards(*peer) : "";
    if (peer && towards.empty()) return {};
    auto device = Device::open(towards);
    return device && (*device)->is_usable() ? (*device)->name() : "";
}

std::vector<core::AdapterInfo> VerbsProvider::adapters() const {
    std::vector<core::AdapterInfo> all;
    for (const auto& device : Device::open_all()) all.push_back(device->info());
    return all;
}

Expected<std::shared_ptr<core::Adapter>> VerbsProvider::open(
    const core::AdapterOptions& options) const {
    if (!options.capture_path.empty()) {
        return fail(Status::not_supported, "open: what a device sends cannot be captured here",
                    "capture on the network interface, or use the soft adapter");
    }
    auto device = Device::open(options.address);
    if (!device) return Unexpected{device.error()};
    if (options.crc.value_or(false) && (*device)->is_iwarp()) {
        return fail(Status::not_supported,
                    "open: the kernel decides about CRC for " + (*device)->info().name,
                    "leave crc out");
    }
    auto parts = std::make_shared<AdapterParts>();
    parts->lams = std::make_shared<LamTable>();
    parts->device = *device;
    parts->async_events = std::make_shared<AsyncEvents>(parts->device);
    if (auto started = parts->async_events->start(*parts->progress); !started) {
        return Unexpected{started.error()};
    }
    auto channel = CmChannel::open(parts);
    if (!channel) {
        parts->progress->stop();
        return Unexpected{channel.error()};
    }
    parts->channel = *channel;
    return std::shared_ptr<core::Adapter>(std::make_shared<Adapter>(std::move(parts)));
}

}  // namespace ndv::verbs

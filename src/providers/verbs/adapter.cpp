// SPDX-License-Identifier: Apache-2.0
// Opening and closing a verbs adapter, and its counters.
#include "providers/verbs/adapter.hpp"

#include <filesystem>
#include <fstream>
#include <map>
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

namespace {

class Adapter final : public core::Adapter {
public:
    explicit Adapter(std::shared_ptr<AdapterParts> parts) : parts_(std::move(parts)) {}
    ~Adapter() override {
        if (!is_foreign()) close();
    }

    [[nodiscard]] const core::AdapterInfo& info() const override { return parts_->device->info(); }
    [[nodiscard]] std::uintptr_t raw_handle() const override {
        return reinterpret_cast<std::uintptr_t>(parts_->device->get());
    }

    [[nodiscard]] std::map<std::string, std::uint64_t> stats() const override {
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

    [[nodiscard]] Expected<std::uint64_t> address_of(std::uint64_t logical_page) const override {
        const auto memory = parts_->lams->find(logical_page);
        if (memory == nullptr) {
            return fail(Status::access_violation,
                        "fast_register: the first page is of no mapping that is built",
                        "use pages of a LogicalAddressMapping");
        }
        return memory->page_address(logical_page);
    }

private:
    Expected<std::shared_ptr<core::ProtectionDomain>> do_create_pd() override {
        return make_protection_domain(parts_, self());
    }
    Expected<std::shared_ptr<core::CompletionQueue>> do_create_cq(std::uint32_t depth) override {
        return CompletionQueue::create(depth, parts_);
    }
    Expected<std::shared_ptr<core::Connector>> do_create_connector() override {
        return std::shared_ptr<core::Connector>(std::make_shared<Connector>(parts_));
    }
    Expected<std::shared_ptr<core::Listener>> do_create_listener() override {
        return std::shared_ptr<core::Listener>(std::make_shared<Listener>(parts_, self()));
    }
    Expected<std::shared_ptr<core::SharedEndpoint>> do_create_shared_endpoint(
        const core::SocketAddress& address) override {
        return SharedEndpoint::create(parts_, address);
    }
    Expected<std::shared_ptr<core::LogicalAddressMapping>> do_build_lam(
        core::BufferHold* hold) override {
        return make_lam(parts_->lams, hold);
    }

    // The worker first: destroying an rdma_cm_id waits until the progress thread has acknowledged
    // its events.
    void stop() override {
        parts_->worker->stop();
        parts_->progress->stop();
    }

    [[nodiscard]] std::shared_ptr<core::Adapter> self() {
        return std::static_pointer_cast<core::Adapter>(shared_from_this());
    }

    const std::shared_ptr<AdapterParts> parts_;
};

}  // namespace

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

// What builtin lists.
std::unique_ptr<core::Provider> make_provider() { return std::make_unique<VerbsProvider>(); }

}  // namespace ndv::verbs

// SPDX-License-Identifier: Apache-2.0
// The list of providers, and the way from a name to an adapter.
#include "providers/builtin/builtin.hpp"

#include <array>
#include <cstdio>
#include <optional>
#include <utility>

#include "base/log.hpp"

// X(name): a provider, whose folder defines make_provider() in its namespace. The first one works
// everywhere.
#define NDV_PROVIDER_LIST(X) X(soft) X(verbs)

#define NDV_X(name)                                  \
    namespace ndv::name {                            \
    std::unique_ptr<core::Provider> make_provider(); \
    }
NDV_PROVIDER_LIST(NDV_X)
#undef NDV_X

namespace ndv::providers {

const std::vector<std::unique_ptr<core::Provider>>& builtin() {
    // Never freed: adapters may be opened and listed until the process is gone.
    static const auto* const list = [] {
        auto* made = new std::vector<std::unique_ptr<core::Provider>>;
#define NDV_X(name) made->push_back(name::make_provider());
        NDV_PROVIDER_LIST(NDV_X)
#undef NDV_X
        return made;
    }();
    return *list;
}

std::vector<std::pair<std::string, core::Finding>> diagnose() {
    std::vector<std::pair<std::string, core::Finding>> all;
    for (const auto& provider : builtin()) {
        for (core::Finding& finding : provider->diagnose()) {
            all.emplace_back(provider->name(), std::move(finding));
        }
    }
    return all;
}

namespace {

// Three times the longest idle time that Linux's TCP takes.
constexpr int kMaxKeepalive_s = 3 * 32767;

Expected<std::shared_ptr<core::Adapter>> open_with(const core::Provider& provider,
                                                   const core::AdapterOptions& options,
                                                   const std::shared_ptr<core::Faults>& faults) {
    return faults ? provider.open_faulty(options, faults) : provider.open(options);
}

// The device that leads to the address, else what works everywhere.
Expected<std::shared_ptr<core::Adapter>> open_automatic(
    core::AdapterOptions options, const std::shared_ptr<core::Faults>& faults) {
    std::optional<core::SocketAddress> peer;
    if (!options.address.empty()) {
        auto parsed = core::SocketAddress::parse(options.address, 1);
        if (!parsed) return Unexpected{parsed.error()};
        peer = *parsed;
    }
    for (const auto& provider : builtin()) {
        options.address = provider->find_device(peer);
        if (options.address.empty()) continue;
        auto opened = open_with(*provider, options, faults);
        if (opened) return opened;
        base::log(base::LogLevel::warning, provider->name(),
                  options.address + " is passed over: " + opened.error().what);
    }
    options.address.clear();
    return open_with(*builtin().front(), options, faults);
}

}  // namespace

Expected<std::shared_ptr<core::Adapter>> open_adapter(const std::string& name,
                                                      core::AdapterOptions options,
                                                      const std::shared_ptr<core::Faults>& faults) {
    if (!(options.keepalive_s >= 0 && options.keepalive_s <= kMaxKeepalive_s)) {
        std::array<char, 32> given{};
        std::snprintf(given.data(), given.size(), "%g", options.keepalive_s);
        return fail(
            Status::invalid_parameter,
            std::string("open: a keepalive of ") + given.data() + " s is impossible",
            "give seconds from 0, which switches it off, to " + std::to_string(kMaxKeepalive_s));
    }
    if (name.find('\0') != std::string::npos) {
        return fail(Status::invalid_parameter,
                    "open: the name of the adapter holds a null character");
    }
    const std::size_t colon = name.find(':');
    const std::string provider_name = name.substr(0, colon);
    options.address = colon == std::string::npos ? "" : name.substr(colon + 1);
    if (provider_name == "auto") return open_automatic(std::move(options), faults);
    std::string known;
    for (const auto& provider : builtin()) {
        if (provider->name() == provider_name) return open_with(*provider, options, faults);
        known += (known.empty() ? "" : ", ") + std::string(provider->name());
    }
    return fail(Status::invalid_parameter, "open: there is no provider \"" + provider_name + "\"",
                "there are: " + known + "; a device is named behind its provider, as in \"verbs:" +
                    provider_name + "\"");
}

}  // namespace ndv::providers

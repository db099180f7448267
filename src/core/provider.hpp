// SPDX-License-Identifier: Apache-2.0
// What a folder of src/providers implements, beside the objects; builtin lists the providers of
// this build.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/expected.hpp"
#include "core/adapter.hpp"
#include "core/faults.hpp"
#include "core/types.hpp"

namespace ndv::core {

// One thing that `ndverbs doctor` looked at.
struct Finding {
    std::string check;  // what was looked at
    bool is_good = true;
    std::string what;    // what was found
    std::string remedy;  // what to do about it, when it is not good
};

class Provider {
public:
    Provider() = default;
    Provider(const Provider&) = delete;
    Provider& operator=(const Provider&) = delete;
    virtual ~Provider() = default;

    [[nodiscard]] virtual const char* name() const = 0;
    // What a user needs for this provider, looked at now.
    [[nodiscard]] virtual std::vector<Finding> diagnose() const = 0;
    // What to open to reach a peer by hardware, or any peer: empty where this provider has no
    // device for it. May block for a second.
    [[nodiscard]] virtual std::string find_device(const std::optional<SocketAddress>&) const {
        return {};
    }
    // The adapters that open() would find now.
    [[nodiscard]] virtual std::vector<AdapterInfo> adapters() const = 0;
    [[nodiscard]] virtual Expected<std::shared_ptr<Adapter>> open(
        const AdapterOptions& options) const = 0;
    // Optional: one whose connections and memory these strike when the program says so.
    [[nodiscard]] virtual Expected<std::shared_ptr<Adapter>> open_faulty(
        const AdapterOptions&, std::shared_ptr<Faults>) const {
        return fail(Status::not_supported,
                    std::string("open: an adapter of ") + name() + " has no faults on demand",
                    "leave faults out; adapter.info.features has \"faults\" where there are some");
    }
};

}  // namespace ndv::core

// SPDX-License-Identifier: Apache-2.0
// The search in the list of extensions.
#include "core/extension.hpp"

namespace ndv::core {

Expected<const extension::Entry*> find_extension(const AdapterInfo& info, const std::string& name) {
    for (const extension::Entry& entry : extension::kList) {
        if (name == entry.name && (info.extensions & entry.bit) != 0) return &entry;
    }
    return fail(Status::not_supported, "query_extension: there is no \"" + name + "\"",
                "adapter.info.extensions names what there is");
}

}  // namespace ndv::core

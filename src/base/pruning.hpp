// SPDX-License-Identifier: Apache-2.0
// When to drop what is over from a container that only grows by itself: when it has doubled since
// the last time, so that adding stays cheap.
#pragma once

#include <algorithm>
#include <cstddef>

namespace ndv::base {

class Pruning {
public:
    // Before one more is added to `all`.
    template <typename Container, typename IsOver>
    void prune(Container& all, const IsOver& is_over) {
        if (all.size() < at_) return;
        std::erase_if(all, is_over);
        at_ = std::max(kLeast, 2 * all.size());
    }

private:
    static constexpr std::size_t kLeast = 64;
    std::size_t at_ = kLeast;
};

}  // namespace ndv::base

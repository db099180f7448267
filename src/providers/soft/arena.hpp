// SPDX-License-Identifier: Apache-2.0
// Memory of one adapter that processes of this host can map: parts of one sparse file, which a
// peer gets once. A part gives its pages back at its end.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>

#include "base/descriptor.hpp"
#include "base/expected.hpp"
#include "base/mutex.hpp"
#include "base/shared_memory.hpp"

namespace ndv::soft {

class Arena : public std::enable_shared_from_this<Arena> {
public:
    // Of addresses, not of memory.
    static constexpr std::size_t kSize = std::size_t{1} << 40U;

    // Null: this system has no such memory.
    [[nodiscard]] static std::shared_ptr<Arena> create();
    explicit Arena(base::Descriptor file) : file_(std::move(file)) {}

    [[nodiscard]] int descriptor() const { return file_.get(); }
    // now: a lack of memory is found here. once_touched: then, as that of other memory is.
    enum class Pages : std::uint8_t { now, once_touched };
    // Memory of zeroes, aligned to pages. It is given back with the last reference; a forked child
    // shares it.
    [[nodiscard]] Expected<std::shared_ptr<std::byte>> allocate(std::size_t size, Pages pages);
    // Where memory lies in the file, if all of it is one part's.
    [[nodiscard]] std::optional<std::uint64_t> find(const std::byte* data, std::size_t size) const;

private:
    struct Part {
        std::size_t offset;
        std::size_t size;
        base::FileMapping mapping;
    };
    using Parts = std::map<const std::byte*, Part>;

    [[nodiscard]] std::optional<std::size_t> take_range(std::size_t size) NDV_REQUIRES(mutex_);
    void give_back(const std::byte* data);
    [[nodiscard]] base::FileMapping map(std::size_t offset, std::size_t size, Pages pages) const;
    void end_range(std::size_t offset, std::size_t size) NDV_REQUIRES(mutex_);

    const base::Descriptor file_;
    const unsigned made_in_ = base::fork_generation();
    mutable base::Mutex mutex_;
    Parts parts_ NDV_GUARDED_BY(mutex_);
    std::map<std::size_t, std::size_t> free_ NDV_GUARDED_BY(mutex_){{0, kSize}};  // offset, size
    // relaxed: what is registered came from allocate(), which its caller has seen.
    std::atomic<std::size_t> count_{0};
};

}  // namespace ndv::soft

// SPDX-License-Identifier: Apache-2.0
// ProtectionDomain and MemoryRegion as Python sees them.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <optional>

#include "bindings/python/buffer.hpp"
#include "bindings/python/handle.hpp"
#include "core/memory.hpp"

namespace ndv::bindings {

// A RemoteBuffer of the Python package.
[[nodiscard]] py::object make_remote_buffer(std::uint64_t address, std::uint32_t token,
                                            std::uint64_t nbytes, const py::object& dtype,
                                            const py::object& shape, std::uint32_t rights);

// `nbytes`, by default the rest, of a segment from the offset on; raises when they lie outside.
[[nodiscard]] core::Segment part_of(const core::Segment& whole, std::uint64_t offset,
                                    std::optional<std::uint64_t> nbytes);

class ProtectionDomain final : public Handle<core::ProtectionDomain> {
public:
    ProtectionDomain(std::shared_ptr<core::ProtectionDomain> native,
                     std::shared_ptr<AdapterState> adapter)
        : Handle("protection domain", std::move(native), std::move(adapter)) {}
};

// deregister() and close() wait for the stepper of a connection, in a process of this host, too,
// which may be stopped: Ctrl-C ends that wait.
class MemoryRegion final : public Handle<core::MemoryRegion, CloseWaits::yes> {
public:
    MemoryRegion(std::shared_ptr<core::MemoryRegion> native, std::shared_ptr<AdapterState> adapter)
        : Handle("memory region", std::move(native), std::move(adapter)) {}

    ~MemoryRegion() {
        detach();
        let_go();
    }

    void register_array(const py::object& array, std::uint32_t rights);
    void deregister();
    void close();

    // The whole region; raises when nothing is registered.
    [[nodiscard]] core::Segment whole() const;
    [[nodiscard]] py::object remote() const;
    [[nodiscard]] py::object array() const;
    [[nodiscard]] bool is_registered() const { return segment_.token != 0; }
    // deregister() or close() waits for a process of this host, or has waited in vain.
    [[nodiscard]] bool is_leaving() const { return !is_registered() && array_; }

    int traverse(visitproc visit, void* arg) const {
        Py_VISIT(array_.ptr());
        return exporter_ ? exporter_->traverse(visit, arg) : 0;
    }
    void clear() noexcept { let_go(); }

private:
    void drop() override;
    // Forced: closing, which does not fail.
    void end_access(bool is_forced);
    // Closes it; waits for no process for longer than a moment.
    void let_go();
    // The array, which the caller drops.
    [[nodiscard]] py::object forget();

    py::object array_;
    std::shared_ptr<const Exporter> exporter_;
    core::Segment segment_;  // token 0: nothing is registered
};

}  // namespace ndv::bindings

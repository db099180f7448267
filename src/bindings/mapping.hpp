// SPDX-License-Identifier: Apache-2.0
// LogicalAddressMapping, FastRegisterMemoryRegion and MemoryWindow as Python sees them. The
// requests that fill and empty them are in hot/mapping.cpp.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>
#include <utility>

#include "bindings/python/buffer.hpp"
#include "bindings/python/handle.hpp"
#include "core/mapping.hpp"

namespace ndv::bindings {

// Closing waits for the stepper of a connection, as for all three.
class LogicalAddressMapping final : public Handle<core::LogicalAddressMapping, CloseWaits::yes> {
public:
    LogicalAddressMapping(std::shared_ptr<core::LogicalAddressMapping> native,
                          std::shared_ptr<AdapterState> adapter, py::object array,
                          std::shared_ptr<const Exporter> exporter)
        : Handle("logical address mapping", std::move(native), std::move(adapter)),
          array_(std::move(array)),
          exporter_(std::move(exporter)) {}
    ~LogicalAddressMapping() {
        detach();
        close();
    }

    void close() {
        Handle::close();
        const py::object array = std::exchange(array_, py::object());
        exporter_ = nullptr;
    }
    [[nodiscard]] py::object array() const {
        static_cast<void>(get());
        return array_;
    }

    int traverse(visitproc visit, void* arg) const {
        Py_VISIT(array_.ptr());
        return exporter_ ? exporter_->traverse(visit, arg) : 0;
    }
    void clear() noexcept { close(); }

private:
    void drop() override {
        const py::object array = std::exchange(array_, py::object());
        exporter_ = nullptr;
        const std::shared_ptr<core::LogicalAddressMapping> native = take();
    }
    py::object array_;
    std::shared_ptr<const Exporter> exporter_;
};

class FastRegisterMemoryRegion final
    : public Handle<core::FastRegisterMemoryRegion, CloseWaits::yes> {
public:
    FastRegisterMemoryRegion(std::shared_ptr<core::FastRegisterMemoryRegion> native,
                             std::shared_ptr<AdapterState> adapter)
        : Handle("fast-register memory region", std::move(native), std::move(adapter)) {}
};

class MemoryWindow final : public Handle<core::MemoryWindow, CloseWaits::yes> {
public:
    MemoryWindow(std::shared_ptr<core::MemoryWindow> native, std::shared_ptr<AdapterState> adapter)
        : Handle("memory window", std::move(native), std::move(adapter)) {}
};

}  // namespace ndv::bindings

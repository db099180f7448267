// SPDX-License-Identifier: Apache-2.0
// The CRC32C of base for Python's buffers.
#include "bindings/checksum.hpp"

#include <string>

#include "base/crc32c.hpp"
#include "bindings/python/buffer.hpp"
#include "bindings/python/gil.hpp"

namespace ndv::bindings {
namespace {

// The sum of fewer bytes is done in a microsecond or two, while taking the GIL back may wait for
// another thread's switch interval.
constexpr std::size_t kWithGil = 32 << 10;

std::uint32_t crc32c(const py::object& buffer, std::uint32_t start) {
    if (PyObject_CheckBuffer(buffer.ptr()) == 0) {
        throw py::type_error(
            std::string("crc32c: buffer must be bytes, an array or another buffer, not ") +
            Py_TYPE(buffer.ptr())->tp_name);
    }
    const Export bytes("crc32c", buffer.ptr(), false);
    const auto sum = [&] { return base::crc32c(start, bytes.data(), bytes.size()); };
    return bytes.size() < kWithGil ? sum() : without_gil(sum);
}

}  // namespace

void bind_checksum(py::module_& module) {
    module.def("crc32c", crc32c, py::arg("buffer"), py::arg("start") = 0);
}

}  // namespace ndv::bindings

# SPDX-License-Identifier: Apache-2.0
"""`nd.crc32c`: published values, any buffer, a sum that goes on, and the GIL."""

from __future__ import annotations

import mmap
import threading

import numpy as np
import pytest

import ndverbs as nd
from wire import reference

VECTORS = reference.load_vectors("crc32c")["vectors"]
# Beyond the size from which on the GIL is given up, and no multiple of anything.
LARGE = bytes(i * 131 + (i >> 8) & 0xFF for i in range(100_003))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_published_inputs_give_their_published_sum(vector: dict[str, str]):
    value = nd.crc32c(bytes.fromhex(vector["bytes"]))

    assert value.to_bytes(4, "little") == bytes.fromhex(vector["crc"])


@pytest.mark.parametrize("cut", [0, 1, 8, 32_767, 32_768, 99_999, len(LARGE)])
def test_a_sum_goes_on_from_the_one_of_the_bytes_before(cut: int):
    first = nd.crc32c(LARGE[:cut])

    assert nd.crc32c(LARGE[cut:], first) == nd.crc32c(LARGE) == reference.crc32c(LARGE)
    assert nd.crc32c(LARGE[cut:], start=first) == nd.crc32c(buffer=LARGE)


def test_no_bytes_leave_the_sum_as_it_is():
    assert nd.crc32c(b"") == 0
    assert nd.crc32c(b"", 0xFFFFFFFF) == 0xFFFFFFFF
    assert nd.crc32c(np.zeros((0, 3))) == 0


def test_any_contiguous_buffer_is_summed():
    read_only = np.frombuffer(LARGE, np.uint8)
    times = np.arange(6).astype("datetime64[s]").reshape(2, 3)  # no format for a memoryview
    with mmap.mmap(-1, len(LARGE)) as mapped:
        mapped[:] = LARGE

        for buffer in (bytearray(LARGE), memoryview(LARGE), read_only, mapped):
            assert nd.crc32c(buffer) == nd.crc32c(LARGE), type(buffer)
    for array in (read_only[1:], np.ones((3, 5), np.float32), times):
        assert nd.crc32c(array) == nd.crc32c(array.tobytes())


def test_a_buffer_with_gaps_is_refused_with_the_way_out():
    with pytest.raises(BufferError, match=r"crc32c: the numpy.ndarray is not C-contiguous.*asc"):
        nd.crc32c(np.zeros((4, 4))[:, ::2])


def test_a_buffer_is_given_back():
    data = bytearray(LARGE)

    nd.crc32c(data)

    data.clear()  # refused while an export is open


def test_threads_that_sum_large_buffers_do_not_disturb_each_other():
    parts = [np.full(1 << 20, n, np.uint8) for n in range(4)]
    sums: list[int] = [0] * len(parts)

    def add(n: int) -> None:
        for _ in range(8):
            sums[n] = nd.crc32c(parts[n], sums[n])

    threads = [threading.Thread(target=add, args=(n,)) for n in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sums == [nd.crc32c(np.tile(part, 8)) for part in parts]

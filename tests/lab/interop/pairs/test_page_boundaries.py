# SPDX-License-Identifier: Apache-2.0
"""Data of siw's that lie across the boundary of two pages, with a defect of Linux 6.1.

Siw copies a message of up to 32 bytes into its header buffer when it has one segment. Across a
page boundary, and unless the sender's own system call does it, siw_try_1seg takes as many bytes
from the first page as belong to the second one.
"""

import mmap

import pytest

from conformance.end import pattern

PAGE = mmap.PAGESIZE

SHAPES = [
    pytest.param(10, 10, id="as-many-on-each-page"),
    pytest.param(
        10,
        20,
        id="30-bytes",
        marks=pytest.mark.xfail(strict=True, reason="siw sends wrong bytes (siw_try_1seg)"),
    ),
    pytest.param(10, 23, id="33-bytes"),
    pytest.param(1000, 2000, id="3000-bytes"),
]


@pytest.mark.parametrize("near_provider", ["soft"], indirect=True)
@pytest.mark.parametrize(("before", "behind"), SHAPES)
def test_read_across_a_page_boundary(ends, before, behind):
    whole = ends.far.memory("whole", 3 * PAGE, seed=4)
    begin = -whole.address % PAGE + PAGE - before
    ends.near.memory("sink", before + behind)

    ends.near.read((whole.address + begin, whole.token), "sink")

    ends.near.completion()
    content = pattern(3 * PAGE, 4)[begin : begin + before + behind]
    assert ends.near.content("sink") == content

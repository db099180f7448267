# SPDX-License-Identifier: Apache-2.0
"""What `Adapter.close` promises its caller, with objects that come and fail when the test says."""

import pytest
from ndverbs._testing import BareAdapter, Leaf


def test_object_that_finds_no_memory_keeps_no_other_from_closing():
    adapter = BareAdapter()
    leaves = [Leaf(), Leaf(finds_memory=False), Leaf()]
    for leaf in leaves:
        adapter.adopt(leaf)

    adapter.close()

    assert all(leaf.closed for leaf in leaves)


def test_second_close_returns_although_the_first_found_no_memory():
    adapter = BareAdapter(finds_memory=False)
    with pytest.raises(MemoryError):
        adapter.close()

    adapter.close()


def test_object_that_is_made_while_the_adapter_closes_is_closed():
    adapter, leaf = BareAdapter(), Leaf()
    adapter.close()

    adapter.adopt(leaf)

    assert leaf.closed

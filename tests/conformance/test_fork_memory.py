# SPDX-License-Identifier: Apache-2.0
"""What a forked child sees of memory that is registered in its parent."""

import os

import numpy as np
import pytest

from conformance.end import ALL


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_keeps_registered_memory_and_what_lies_beside_it(adapter):
    # Small enough for the heap: objects of the interpreter lie in the same pages.
    arrays = [np.full(3000, number, np.uint8) for number in range(20)]
    with adapter.create_pd() as pd:
        regions = [pd.register(array, ALL) for array in arrays[::2]]
        child = os.fork()
        if child == 0:
            sees_all = all((array == number).all() for number, array in enumerate(arrays))
            os._exit(0 if sees_all else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        for region in regions:
            region.close()

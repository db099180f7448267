# SPDX-License-Identifier: Apache-2.0
"""Arrays whose bytes a stream carries, and those that it refuses."""

import numpy as np
import pytest

NAMED = [("datetimes", np.arange(4).astype("M8[s]")), ("nothing", np.zeros((0, 3)))]
NAMED += [("a scalar", np.array(1.5)), ("rows", np.arange(6, dtype=">i4").reshape(2, 3))]
NAMED += [("records", np.zeros(3, [("when", "M8[s]"), ("what", "f4")]))]
ARRAYS = pytest.mark.parametrize("array", [a for _, a in NAMED], ids=[name for name, _ in NAMED])
OBJECTS = pytest.mark.parametrize(
    "array",
    [np.array([1, "two"], object), np.zeros(2, [("when", "M8[s]"), ("what", "O")])],
    ids=["objects", "records with objects"],
)

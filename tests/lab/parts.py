# SPDX-License-Identifier: Apache-2.0
"""Which part of the suites `make lab` runs, and why the rest is left to `make lab-all`.

What is left out is named here, and in each report; all else runs. `make lab` has half an hour on
two processors that emulate; reports tell the times of sessions and files to choose by.
"""

from typing import NamedTuple


class Left(NamedTuple):
    """Sessions whose names begin with a word, or tests of theirs."""

    session: str
    reason: str
    tests: str = ""  # a file, or the beginning of names of tests; none: the whole session


LEFT = [
    Left("streams", "streams use what the conformance tests show of a device, and run on soft"),
    Left("interop siw-crc", "the tests of the stock siw, with a checksum that soft always checks"),
    Left("interop siw-p2p", "the tests of the stock siw, with another start-up"),
    Left("across", "the tools of the interoperability tests, through a translation of addresses"),
    Left(
        "conformance",
        "long sequences of what the other tests do one by one",
        "tests/conformance/test_random_sequences.py",
    ),
    Left(
        "conformance",
        "sizes beyond a segment and beyond 2^31 are the kernel's to cut, and slow to emulate",
        "tests/conformance/test_sizes.py",
    ),
]


def left_of(session):
    """Return what `make lab` leaves out of a session by its name."""
    return [left for left in LEFT if session.startswith(left.session)]

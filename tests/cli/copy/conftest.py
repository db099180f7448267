# SPDX-License-Identifier: Apache-2.0
"""What the tests of the copy share: an adapter of a module's own, and a server in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.copying import Serving, serving
from ndverbs import Adapter


@pytest.fixture(scope="module")
def adapter() -> Iterator[Adapter]:
    """Open an adapter for the tests of one module."""
    with Adapter.open("soft") as adapter:
        yield adapter


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Serving]:
    """Serve a folder of the test's own."""
    with serving(tmp_path / "served") as server:
        yield server

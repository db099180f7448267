# SPDX-License-Identifier: Apache-2.0
"""Our soft provider against kernel siw: address, soft ends, tools, and the kernel's log."""

import os

import pytest

import ndverbs as nd
from conformance.addresses import addresses_of
from lab.interop.ends import make_end  # noqa: F401
from lab.interop.place import Place
from lab.interop.streams import file  # noqa: F401
from lab.interop.tools import KernelLog, Tool

pytest.register_assert_rewrite("lab.interop.rping", "lab.interop.perftest")

_SIW_VARIANT = os.environ.get("NDVERBS_LAB_SIW", "stock")
# Streams are the same whichever siw is loaded.
collect_ignore = (
    [] if _SIW_VARIANT == "stock" else ["test_preloaded_programs.py", "test_rsockets.py"]
)


@pytest.fixture
def place():
    """Say where our side and the tools find each other: by siw's interface."""
    return Place(addresses_of("verbs:siw0").v4)


@pytest.fixture
def place_v6():
    return Place(addresses_of("verbs:siw0").v6)


@pytest.fixture(scope="session")
def siw_variant():
    """Say which build of siw is loaded: stock, crc or p2p."""
    return _SIW_VARIANT


@pytest.fixture
def tool():
    """Give the factory ``tool(program, *arguments) -> Tool``."""
    made = []

    def make(*command):
        made.append(Tool(*command))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def kernel_log():
    log = KernelLog()
    yield log
    log.close()


@pytest.fixture(params=["soft", "verbs:siw0", "verbs:rxe0"])
def ours(request):
    """Give our adapter of streams, and where both sides find each other."""
    device = "verbs:siw0" if request.param == "soft" else request.param
    with nd.Adapter.open(request.param) as adapter:
        yield adapter, Place(addresses_of(device).v4)


@pytest.fixture
def folder(tmp_path):
    """Give a folder that the tools see, too."""
    return tmp_path

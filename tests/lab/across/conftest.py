# SPDX-License-Identifier: Apache-2.0
"""Our soft provider on the host against kernel siw in the guest, through QEMU's user networking.

The translation ends every TCP connection and begins another: what one side sent as one segment
arrives cut and joined in ways that no loopback device shows. Events that it hides (RST,
refusals) are not tested here.
"""

import os

import pytest

import ndverbs as nd
from lab import recipe
from lab.across.guest_tool import GuestTool
from lab.interop.ends import make_end  # noqa: F401
from lab.interop.place import retry
from lab.interop.streams import file  # noqa: F401
from lab.machine import Machine

# Once, with siw as it is. The one that demands CRC takes a CRC for wrong that arrives in two pieces
# (siw_get_trailer of Linux 6.1 puts the second one over the first), which much data meets at times.
collect_ignore = [] if os.environ.get("NDVERBS_LAB_SIW") == "stock" else ["test_streams.py"]

pytest.register_assert_rewrite("lab.interop.rping", "lab.interop.perftest")


class Place:
    """Our side on the host's loopback, the tools in the guest, a translation in between."""

    listen_on = "127.0.0.1"
    seen_as = recipe.HOST_SEEN_BY_GUEST
    tools_listen_on = recipe.DEVICES["siw0"].ipv4
    # A connection to a port of the guest's without a listener is taken, and closed at once.
    refusals = (nd.RdmaConnectionAbortedError, nd.RdmaConnectionResetError)

    def __init__(self, machine):
        self._machine = machine
        self._ports = list(recipe.FORWARDED_PORTS)

    def tool_port(self):
        return self._ports.pop()

    def tool_at(self, port):
        return "127.0.0.1", self._machine.host_port(port)

    def connect(self, end, tool, port, **options):
        retry(end, tool, self.tool_at(port), self.refusals, **options)


@pytest.fixture(scope="session")
def machine():
    return Machine(os.environ["NDVERBS_LAB_MACHINE"])


@pytest.fixture
def place(machine):
    return Place(machine)


class SharedFile:
    """A file of the guest's /share: a tool opens it by str(), we read and write it here."""

    def __init__(self, here, name):
        self._here = here / name
        self._name = name

    def __str__(self):
        return f"/share/{self._name}"

    def read_bytes(self):
        return self._here.read_bytes()

    def write_bytes(self, data):
        self._here.write_bytes(data)


@pytest.fixture
def folder(machine):
    """Give a folder that the tools see, too."""

    class Folder:
        def __truediv__(self, name):
            return SharedFile(machine.share, name)

    return Folder()


@pytest.fixture
def ours(place):
    """Give our adapter of streams, and where both sides find each other."""
    with nd.Adapter.open("soft") as adapter:
        yield adapter, place


@pytest.fixture
def tool(machine):
    """Give the factory ``tool(program, *arguments) -> GuestTool``."""
    made = []

    def make(*command):
        made.append(GuestTool(machine, *command))
        return made[-1]

    yield make
    for each in made:
        each.close()

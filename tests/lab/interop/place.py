# SPDX-License-Identifier: Apache-2.0
"""Where our side and the tools find each other."""

import time
from typing import NamedTuple

import ndverbs as nd
from lab.interop.tools import LIMIT, free_port


class Place(NamedTuple):
    """Both sides in the guest, reached by an address of siw's interface."""

    host: str

    @property
    def listen_on(self):
        """Where our side listens."""
        return self.host

    @property
    def seen_as(self):
        """The address by which a tool reaches our listener."""
        return self.host

    @property
    def tools_listen_on(self):
        return self.host

    def tool_port(self):
        """Choose a port for a tool's listener."""
        return free_port(self.host)

    def tool_at(self, port):
        """The address by which our side reaches a tool's listener."""
        return self.host, port

    @property
    def refusals(self):
        """What our side gets from an address without a listener."""
        return nd.RdmaConnectionRefusedError

    def connect(self, end, tool, port, **options):
        """Connect to a tool that was just started; its listener does not say when it is there."""
        retry(end, tool, self.tool_at(port), self.refusals, **options)


def retry(end, tool, address, refused, **options):
    """Connect again and again until the tool listens, or has ended."""
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            return end.connect(address, **{"peer_to_peer": False, **options})
        except refused:
            assert time.monotonic() < deadline, f"{tool} does not listen\n{tool.output()}"
            assert not tool.ends_within(0.05), f"{tool} ended\n{tool.output()}"

# SPDX-License-Identifier: Apache-2.0
"""Connecting two ends, near and far, wherever the far one is."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import ndverbs as nd
from conformance.end import LIMIT, End


def join(active, passive_begin, address, *, active_options=None, passive_options=None):
    """Connect: `passive_begin` starts a call at the passive end and returns its future."""
    accepted = passive_begin("accept", **(passive_options or {}))
    active.connect(address, **(active_options or {}))
    accepted.result(LIMIT)


@contextmanager
def kept_ends():
    """Give a list for the ends that a test makes; they are closed after it."""
    made = []
    yield made
    # A side that closes lingers until its peer closes, too: so first all, then each.
    for end in made:
        end.end_connection()
    for end in made:
        end.close()


class Pair:
    """Two connected ends of this process; ``near`` is the active one.

    Parameters
    ----------
    provider : str
        The adapter's name; both ends are of one adapter.
    is_connected : bool
        Whether to connect them.
    active, passive : dict
        Options of connect and of accept.
    near, far : dict
        Options of the ends, which `qp_options` give for both.
    """

    def __init__(
        self,
        provider="soft",
        *,
        is_connected=True,
        active=None,
        passive=None,
        near=None,
        far=None,
        host=None,
        **qp_options,
    ):
        self.adapter = nd.Adapter.open(provider)
        self.near = End(adapter=self.adapter, **qp_options, **(near or {}))
        self.far = End(adapter=self.adapter, **qp_options, **(far or {}))
        if is_connected:
            self.connect(host, active, passive)

    def connect(self, host=None, active=None, passive=None):
        address = self.far.listen(host)
        with ThreadPoolExecutor(1) as thread:

            def begin(name, **options):
                return thread.submit(getattr(self.far, name), **options)

            join(self.near, begin, address, active_options=active, passive_options=passive)

    def reconnect(self):
        """Give both ends another queue pair and connect those; the first ones stay."""
        self.first = [(end.qp, end.connector, end.listener) for end in (self.near, self.far)]
        for end in (self.near, self.far):
            end.qp = end.create_qp()
            end.listener = None
        self.connect()

    def close(self):
        """Close the adapter, which suffices, and forget the ends; any number of times."""
        self.adapter.close()
        self.near.close()
        self.far.close()

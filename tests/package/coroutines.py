# SPDX-License-Identifier: Apache-2.0
"""Two ends that are connected by coroutines."""

import asyncio

LIMIT = 30


class Half:
    """A queue pair with its queue and connector."""

    def __init__(self, adapter):
        self.pd = adapter.create_pd()
        self.cq = adapter.create_cq(256)
        self.qp = self.pd.create_qp(self.cq, self.cq)
        self.connector = None


async def connected(adapter, *, on_disconnect=None):
    """Connect two halves within the running loop; the first is the active one."""
    active, passive = Half(adapter), Half(adapter)
    listener = adapter.create_listener()
    listener.listen("127.0.0.1:0")

    async def serve():
        passive.connector = await listener.get_connector_async(LIMIT)
        await passive.connector.accept_async(passive.qp, on_disconnect=on_disconnect)

    serving = asyncio.create_task(serve())
    active.connector = adapter.create_connector()
    await active.connector.connect_async(active.qp, None, listener.local_address, peer_to_peer=True)
    await active.connector.complete_connect_async(on_disconnect)
    await serving
    listener.close()
    return active, passive


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 2 * LIMIT))

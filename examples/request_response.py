# SPDX-License-Identifier: Apache-2.0
"""Requests and responses: a client asks many at once. Run: python examples/request_response.py."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np

import ndverbs as nd

DEPTH, SIZE = 16, 64  # requests at once, bytes of a message
SEND = nd.Flag.INLINE | nd.Flag.SILENT_SUCCESS  # copied by the call, and no completion


class End:
    """A queue pair with DEPTH receives, each with a row of its own."""

    def __init__(self, adapter: nd.Adapter) -> None:
        self.pd, self.cq = adapter.create_pd(), adapter.create_cq(256)
        self.qp = self.pd.create_qp(self.cq, self.cq)
        self.rows = np.zeros((DEPTH, SIZE), np.uint8)
        self.region = self.pd.register(self.rows)
        for number in range(DEPTH):
            self.qp.receive(self.rows[number], context=number)

    async def messages(self) -> AsyncIterator[str]:
        async for result in self.cq:
            if result.status != nd.Status.SUCCESS:
                return  # the connection has ended
            row = self.rows[result.request_context]
            text = bytes(row[: result.bytes_transferred]).decode()
            self.qp.receive(row, context=result.request_context)
            yield text


async def serve(adapter: nd.Adapter, listener: nd.Listener) -> None:
    end = End(adapter)
    connector = await listener.get_connector_async(timeout=60)
    await connector.accept_async(end.qp)
    async for text in end.messages():
        end.qp.send(text.upper().encode(), flags=SEND)


async def main() -> None:
    with nd.Adapter.open() as adapter, adapter.create_listener() as listener:
        listener.listen("127.0.0.1:0")
        serving = asyncio.create_task(serve(adapter, listener))
        end, connector = End(adapter), adapter.create_connector()
        await connector.connect_async(end.qp, None, listener.local_address)
        await connector.complete_connect_async()
        for number in range(DEPTH):
            end.qp.send(b"request %d" % number, flags=SEND)
        answers = end.messages()
        print([await anext(answers) for _ in range(DEPTH)])
        await connector.disconnect_async()
        await serving


asyncio.run(main())

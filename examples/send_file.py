# SPDX-License-Identifier: Apache-2.0
"""A file through asyncio's streams, over RDMA: reader and writer as asyncio has them.

Both ends in one process:  python examples/send_file.py
One end in each terminal:  python examples/send_file.py serve 127.0.0.1:7471
                           python examples/send_file.py send 127.0.0.1:7471 FILE
"""

import asyncio
import hashlib
import sys

import ndverbs as nd

PIECE = 1 << 20


async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take a file to its end, and answer with its length and checksum."""
    digest, length = hashlib.sha256(), 0
    while piece := await reader.read(PIECE):
        digest.update(piece)
        length += len(piece)
    writer.write(f"{length} bytes, SHA-256 {digest.hexdigest()[:16]}\n".encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def send(address: str, name: str) -> None:
    reader, writer = await nd.open_connection(address)
    digest = hashlib.sha256()
    with open(name, "rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            writer.write(piece)
            await writer.drain()
    writer.write_eof()  # the other direction stays open for the answer
    answer = (await reader.readline()).decode().strip()
    print("the peer received", answer)
    assert answer.endswith(digest.hexdigest()[:16])
    writer.close()
    await writer.wait_closed()


async def main() -> None:
    role, address, name, *_ = *sys.argv[1:], "both", "127.0.0.1:0", sys.executable
    if role == "send":
        await send(address, name)
        return
    async with await nd.start_server(receive, address) as server:
        address = server.sockets[0].getsockname()[:2]
        print("listening on", address, flush=True)
        await (server.serve_forever() if role == "serve" else send(address, name))


asyncio.run(main())

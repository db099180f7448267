# SPDX-License-Identifier: Apache-2.0
"""Run in a process of its own: a network of its own in which another host is this one.

The network is a device that swaps the addresses of every packet: a connect to ``OTHER`` reaches
a listener of ``OURS``, and each end sees a peer that has no address of this host. Prints as JSON
which ends asked for CRC. Ends with code 77 and a reason where the kernel does not let it.
"""

import fcntl
import json
import os
import socket
import struct
import sys
import threading
from pathlib import Path

from private_network import IFF_UP, NOT_LET, SIOCSIFFLAGS, enter, sockaddr

OURS, OTHER = "192.0.2.1", "192.0.2.2"
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x1, 0x1000
SIOCSIFADDR, SIOCSIFNETMASK = 0x8916, 0x891C
NAME = b"mirror"


def open_mirror():
    tunnel = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(tunnel, TUNSETIFF, struct.pack("16sH22x", NAME, IFF_TUN | IFF_NO_PI))
    with socket.socket() as control:
        for request, address in ((SIOCSIFADDR, OURS), (SIOCSIFNETMASK, "255.255.255.0")):
            fcntl.ioctl(control, request, struct.pack("16s16s8x", NAME, sockaddr(address)))
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh22x", NAME, IFF_UP))
    threading.Thread(target=mirror, args=(tunnel,), daemon=True).start()


def mirror(tunnel):
    while True:
        packet = bytearray(os.read(tunnel, 1 << 16))
        if packet[0] >> 4 == 4:
            # The checksums do not mind: they are sums.
            packet[12:16], packet[16:20] = packet[16:20], packet[12:16]
            os.write(tunnel, packet)


def asked(*, host, adapter, active, passive):
    """Connect two ends and move a message; return which MPA frames have C set."""
    import numpy as np

    import ndverbs as nd
    from conformance.end import LIMIT, End

    path = Path(f"/proc/self/fd/{os.memfd_create('capture')}")
    with nd.Adapter.open("soft", capture=str(path), **adapter) as opened:
        near, far = End(adapter=opened), End(adapter=opened)
        _, port = far.listen(OURS if host == OTHER else host)
        thread = threading.Thread(target=far.accept, kwargs=passive)
        thread.start()
        near.connect((host, port), **active)
        thread.join(LIMIT)
        memory = far.memory("target", 100_000)
        near.memory("source", 100_000, seed=3)
        far.receive()
        near.write(memory, "source")
        near.send()
        assert far.received().status == nd.Status.SUCCESS
        assert np.array_equal(near.regions["source"].array, far.regions["target"].array)
        near.end_connection()
        far.end_connection()
        near.close()
        far.close()
    captured = path.read_bytes()
    flags = []
    for key in (b"MPA ID Req Frame", b"MPA ID Rep Frame"):
        flags.append(bool(captured[captured.index(key) + 16] & 0x40))
    return flags


CASES = {
    "another host": {"host": OTHER, "adapter": {}},
    "this host": {"host": "127.0.0.1", "adapter": {}},
    "an address of this host": {"host": OURS, "adapter": {}},
    "another host, never": {"host": OTHER, "adapter": {"crc": False}},
    "this host, always": {"host": "127.0.0.1", "adapter": {"crc": True}},
    "another host, not this connection": {
        "host": OTHER,
        "adapter": {},
        "active": {"crc": False},
        "passive": {"crc": False},
    },
    "another host, the passive end alone": {
        "host": OTHER,
        "adapter": {},
        "active": {"crc": False},
    },
}


if __name__ == "__main__":
    try:
        enter()
        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("20000 60000")
        open_mirror()
    except OSError as error:
        print(error, file=sys.stderr)
        sys.exit(NOT_LET)
    sys.path.insert(0, str(Path(__file__).parents[1]))
    found = {name: asked(**{"active": {}, "passive": {}, **case}) for name, case in CASES.items()}
    print(json.dumps(found))

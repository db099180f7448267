# SPDX-License-Identifier: Apache-2.0
"""Run in a process of its own: network conditions that must not befall the rest of the host.

``python private_network.py`` enters a user and a network namespace of its own, where it holds every
port, has a route to nowhere, and prints as JSON which status each call answers. It ends with code
77 and a reason where the kernel does not let it.
"""

import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NOT_LET = 77
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCADDRT, SIOCSIFFLAGS = 0x890B, 0x8914
IFF_UP, RTF_UP, RTF_REJECT = 1, 1, 0x200
PORTS = (50_000, 50_007)
TAKEN, FREE = "127.0.0.2", "127.0.0.1"
NO_ROUTE, UNREACHABLE = "192.0.2.1", "198.51.100.1"


def enter_namespaces():
    """Have a network of our own, in which even the loopback interface is down."""
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def enter():
    enter_namespaces()
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("{} {}".format(*PORTS))
    with socket.socket() as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))
        # struct rtentry: a route that answers "host unreachable".
        fields = (sockaddr(UNREACHABLE), sockaddr("0.0.0.0"), sockaddr("255.255.255.255"))
        route = struct.pack("8x16s16s16sH62x", *fields, RTF_UP | RTF_REJECT)
        fcntl.ioctl(control, SIOCADDRT, route)


def sockaddr(host):
    return struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(host))


def taken_ports(host):
    """Hold every port that the kernel gives out for port 0 of an address."""
    held = []
    for port in range(PORTS[0], PORTS[1] + 1):
        held.append(socket.socket())
        held[-1].bind((host, port))
    return held


def statuses():
    import ndverbs as nd
    from conformance.end import LIMIT, End, status_of

    found = {}
    peer, end = End("soft"), End("soft")
    address = peer.listen(FREE)
    held = taken_ports(TAKEN)
    adapter = end.adapter
    with adapter.create_listener() as listener, adapter.create_connector() as connector:
        found["listen"] = status_of(listener.listen, (TAKEN, 0))
        found["create_shared_endpoint"] = status_of(adapter.create_shared_endpoint, (TAKEN, 0))
        found["connect"] = status_of(connector.connect, end.qp, (TAKEN, 0), address)
        # Every port is bound by a socket, so none is left for an address of the kernel's choice.
        found["connect_from_anywhere"] = status_of(connector.connect, end.qp, None, address)
        try:
            adapter.create_shared_endpoint((TAKEN, 0))
        except nd.RdmaError as error:
            found["hint"] = error.hint
        for one in held:
            one.close()
        found["no_route"] = status_of(connector.connect, end.qp, None, (NO_ROUTE, 7471))
        found["unreachable"] = status_of(connector.connect, end.qp, None, (UNREACHABLE, 7471))
        with adapter.create_shared_endpoint(("0.0.0.0", 0)) as endpoint:
            call = connector.connect_with_shared_endpoint
            found["no_route_of_an_endpoint"] = status_of(call, end.qp, endpoint, (NO_ROUTE, 7471))
            found["unreachable_of_an_endpoint"] = status_of(
                call, end.qp, endpoint, (UNREACHABLE, 7471)
            )
        # A failed connect leaves connector and queue pair as they were.
        with ThreadPoolExecutor(1) as thread:
            accepted = thread.submit(peer.accept)
            connector.connect(end.qp, None, address)
            connector.complete_connect()
            accepted.result(LIMIT)
        found["state"] = connector.state
    peer.end_connection()
    peer.close()
    end.close()
    return {name: getattr(value, "name", value) for name, value in found.items()}


if __name__ == "__main__":
    try:
        enter()
    except OSError as error:
        print(error, file=sys.stderr)
        sys.exit(NOT_LET)
    sys.path.insert(0, str(Path(__file__).parents[1]))
    print(json.dumps(statuses()))

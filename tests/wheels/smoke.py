# SPDX-License-Identifier: Apache-2.0
"""A program for the empty environment: both providers of the installed package, and its command.

It prints one line of JSON. An argument is a folder with wheels: the package is installed first.
"""

import fcntl
import json
import shutil
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path


def install(wheels, site):
    """Install ndverbs and what it needs from the folder alone, by the pip that lies in it."""
    (pip,) = wheels.glob("pip-*.whl")
    subprocess.run(
        [
            *(sys.executable, pip / "pip", "install", "--quiet", "--no-index", "--no-cache-dir"),
            *("--root-user-action=ignore", "--disable-pip-version-check"),
            *("--find-links", wheels, "--target", site, "ndverbs"),
        ],
        check=True,
    )


def raise_loopback():
    """Switch on the one interface of a new network, which is all that there is."""
    with socket.socket() as control:
        fcntl.ioctl(control, 0x8914, struct.pack("16sh22x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP


def has_network():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return False
    return True


def written(nd, np):
    """Write into an array of a listener; return what it holds then, and over what."""
    target = np.zeros(1 << 16, np.uint8)
    with nd.listen("127.0.0.1:0") as server:

        def serve():
            with server.accept(timeout=30) as c, c.register(target, nd.Access.REMOTE_WRITE) as r:
                c.send(r.remote())
                assert c.receive(timeout=30) == b"done"

        thread = threading.Thread(target=serve)
        thread.start()
        with nd.connect(server.address, timeout=30) as c:
            remote = c.receive_buffer(timeout=30)
            source = np.full(remote.nbytes, 7, np.uint8)
            c.write(source, remote, notify=b"done").result(timeout=30)
        thread.join(30)
    return int(target.sum())


def refused(nd):
    try:
        nd.Adapter.open("verbs")
    except nd.RdmaError as error:
        return [error.status.name, str(error)]
    return ["opened", ""]


def main():
    here = Path(__file__).parent
    site = here / "site"
    if len(sys.argv) > 1:
        install(Path(sys.argv[1]), site)
    raise_loopback()
    sys.path.insert(0, str(site))
    import numpy as np

    import ndverbs as nd

    command = [sys.executable, "-m", "ndverbs", "info", "--json"]
    info = subprocess.run(command, env={"PYTHONPATH": str(site)}, capture_output=True, text=True)
    found = {
        "file": nd.__file__,
        "compilers": [c for c in ("cc", "c++", "gcc", "g++", "clang") if shutil.which(c)],
        "network": has_network(),
        "sum": written(nd, np),
        "verbs": refused(nd),
        "info": [info.returncode, info.stderr],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()

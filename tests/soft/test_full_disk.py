# SPDX-License-Identifier: Apache-2.0
"""A capture whose file takes no more: what is in the file, what is said, what goes on."""

import json
import struct
import subprocess
import sys
from pathlib import Path

from conformance.end import LIMIT

# A file size limit is a full disk that needs no privileges.
PROGRAM = """
import json, resource, sys, threading, warnings
import numpy as np
import ndverbs as nd

most = 150_000
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
with (
    warnings.catch_warnings(record=True) as said,
    nd.Adapter.open("soft", capture=sys.argv[1]) as adapter,
    adapter.create_listener() as listener,
):
    warnings.simplefilter("always")
    pd, cq = adapter.create_pd(), adapter.create_cq(512)
    mine, theirs = pd.create_qp(cq, cq, receive_queue_depth=8), pd.create_qp(cq, cq)
    listener.listen("127.0.0.1:0")
    kept = []
    def accept():
        kept.append(listener.get_connector(10))
        kept[0].accept(theirs)
    thread = threading.Thread(target=accept)
    thread.start()
    connector = adapter.create_connector()
    connector.connect(mine, None, listener.local_address)
    connector.complete_connect()
    thread.join()
    source, sink = np.full(50_000, 7, np.uint8), np.zeros(50_000, np.uint8)
    kept.append(pd.register(sink, nd.Access.REMOTE_WRITE))
    remote = kept[-1].remote()
    kept.append(pd.register(source))
    statuses = []
    for _ in range(6):
        mine.write(source, remote)
        cq.wait(10)
        statuses += [result.status.name for result in cq.poll()]
    connector.disconnect()
    lost = adapter.stats()["capture_lost_packets"]
    print(json.dumps([statuses, lost, [str(warning.message) for warning in said]]))
"""


def packets(path: Path) -> int:
    """Count the packets of a capture, all of which must be whole."""
    data, at, count = path.read_bytes(), 24, 0
    while at < len(data):
        size = struct.unpack_from("=I", data, at + 8)[0]
        at += 16 + size
        count += 1
    assert at == len(data)
    return count


def test_a_capture_that_is_full_ends_whole_and_its_connections_go_on(tmp_path: Path):
    path = tmp_path / "full.pcap"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, path], capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr
    statuses, lost, said = json.loads(done.stdout)

    assert statuses == ["SUCCESS"] * 6
    assert lost > 0
    assert packets(path) > 2
    assert path.stat().st_size <= 150_000
    assert said == [f"the capture {path} ends here: File too large; connections go on without it"]


def test_a_capture_that_cannot_begin_is_refused():
    program = "import ndverbs as nd; nd.Adapter.open('soft', capture='/dev/full')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT
    )

    assert done.returncode == 1
    assert "capture: cannot write /dev/full" in done.stderr

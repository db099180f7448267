# SPDX-License-Identifier: Apache-2.0
"""A capture whose file takes no more: what is in the file, what is said, what goes on."""

import json
import struct
from pathlib import Path

from programs import ENDS, run

# A file size limit is a full disk that needs no privileges.
PROGRAM = (
    ENDS
    + """
import json, resource, warnings

most = 150_000
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
with (
    warnings.catch_warnings(record=True) as said,
    nd.Adapter.open("soft", capture=path) as adapter,
):
    warnings.simplefilter("always")
    near, far = ends(adapter)
    join(near, far)
    statuses = []
    for _ in range(6):
        near.qp.write(near.region.segment(0, 50_000), far.region.remote())
        near.cq.wait(10)
        statuses += [result.status.name for result in near.cq.poll()]
    near.connector.disconnect()
    lost = adapter.stats()["capture_lost_packets"]
    print(json.dumps([statuses, lost, [str(warning.message) for warning in said]]))
"""
)


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

    out, _ = run(f"path = {str(path)!r}\n" + PROGRAM)

    statuses, lost, said = json.loads(out)
    assert statuses == ["SUCCESS"] * 6
    assert lost > 0
    assert packets(path) > 2
    assert path.stat().st_size <= 150_000
    assert said == [f"the capture {path} ends here: File too large; connections go on without it"]


def test_a_capture_that_cannot_begin_is_refused():
    program = "import ndverbs as nd; nd.Adapter.open('soft', capture='/dev/full')"

    _, errors = run(program, returncode=1)

    assert "capture: cannot write /dev/full" in errors

# SPDX-License-Identifier: Apache-2.0
"""Each build of siw asks for what its constants say, and gets it from our soft side."""

import struct

import pytest

import ndverbs as nd
from lab.interop.rping import Server

# RFC 5044 section 7.1 and RFC 6581 section 6: the flags behind the key, and the enhanced data.
_CRC = 0x40
_PEER_TO_PEER = 0x8000

ASKED = {"stock": (False, False), "crc": (True, False), "p2p": (False, True)}


@pytest.fixture
def captured_adapter(tmp_path):
    with nd.Adapter.open("soft", capture=str(tmp_path / "capture.pcap")) as adapter:
        yield adapter


def start_up_frames(capture):
    """Return (CRC, peer-to-peer mode) of the MPA request and of the reply."""
    frames = []
    for key in (b"MPA ID Req Frame", b"MPA ID Rep Frame"):
        begin = capture.index(key) + len(key)
        flags, _revision, _length, ird = struct.unpack_from(">BBHH", capture, begin)
        frames.append((bool(flags & _CRC), bool(ird & _PEER_TO_PEER)))
    return frames


def test_siw_asks_for_what_its_build_wants_and_gets_it(
    captured_adapter, make_end, tool, place, siw_variant, tmp_path
):
    end = make_end(adapter=captured_adapter)
    server = Server(end, 4096)
    port = end.listen(place.listen_on)[1]
    client = tool("rping", "-c", "-V", "-a", place.seen_as, "-p", port, "-S", 4096, "-C", 10)

    end.accept()
    server.serve(10)
    end.wait_for_disconnect()
    end.disconnect()
    client.finish()
    captured_adapter.close()

    request, reply = start_up_frames((tmp_path / "capture.pcap").read_bytes())
    assert request == ASKED[siw_variant]
    assert reply == request

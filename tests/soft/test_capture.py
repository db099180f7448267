# SPDX-License-Identifier: Apache-2.0
"""Captures as an independent reader sees them: tshark decodes every FPDU that was moved."""

import contextlib
import os
import re
import shutil
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

import ndverbs as nd
from conformance.end import End
from conformance.pair import join
from hostile.raw_peer import RawPeer, request
from hostile.victim import Victim
from ndverbs import _captures, _frames
from ndverbs.cli.capture.merging import merge
from wire import reference

TSHARK = shutil.which("tshark")
# The payload of a Send is the program's own; tshark would guess that it is RPC-over-RDMA.
NO_GUESSES = ["--disable-protocol", "rpcordma", "--disable-protocol", "smb_direct"]
# For each start-up frame of revision 2: tshark knows RFC 5044 and not RFC 6581.
OF_REVISION_2 = {
    "Res field is NOT set to zero as required by RFC 5044",
    "Rev field is NOT set to one as required by RFC 5044",
}
WRITE, READ_REQUEST, READ_RESPONSE, SEND = "0x00", "0x01", "0x02", "0x03"
SEND_INVALIDATE, SEND_SOLICITED = "0x04", "0x05"
TERMINATE = "0x07"
ATOMIC_REQUEST, ATOMIC_RESPONSE = "0x0a", "0x0b"
BIG = 1 << 18


@pytest.fixture(autouse=True)
def _tshark_is_there():
    if TSHARK is None and os.environ.get("CI") != "true":
        pytest.skip("tshark is not installed; on Debian: apt-get install tshark")
    assert TSHARK is not None, "tshark is not installed, and CI=true asks for it"


def run(path, *options):
    done = subprocess.run(
        [TSHARK, "-r", str(path), *NO_GUESSES, *options],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def tshark(path, *fields, only=""):
    """Rows of fields; a field that occurs several times in a packet is a list."""
    options = ["-Y", only] if only else []
    options += ["-T", "fields", "-E", "separator=|", "-E", "occurrence=a", "-E", "aggregator=;"]
    for field in fields:
        options += ["-e", field]
    return [
        [value.split(";") if value else [] for value in line.split("|")]
        for line in run(path, *options).splitlines()
    ]


def expert_warnings(path):
    """Errors and warnings of tshark's expert, with their counts; notes and chats are TCP's."""
    found = {}
    group = ""
    for line in run(path, "-q", "-z", "expert").splitlines():
        words = line.split(maxsplit=3)
        if len(words) == 2 and words[1].startswith("("):
            group = words[0]
        elif len(words) == 4 and words[0].isdigit() and group in ("Errors", "Warns"):
            found[words[3]] = int(words[0])
    return found


class Reading:
    """One capture, decoded."""

    def __init__(self, path):
        rows = tshark(path, "tcp.srcport", "iwarp_rdma.opcode", "iwarp_ddp.last_flag")
        self.opcodes = {}
        self.last = {}
        for ports, opcodes, flags in rows:
            port = int(ports[0])
            self.opcodes.setdefault(port, Counter()).update(opcodes)
            whole = [o for o, flag in zip(opcodes, flags, strict=True) if flag in ("1", "True")]
            self.last.setdefault(port, Counter()).update(whole)
        self.warnings = expert_warnings(path)
        self.malformed = tshark(path, "frame.number", only="_ws.malformed")
        # Whether a CRC is good stands in words alone.
        verdicts = re.findall(
            r"CRC check: 0x[0-9a-f]{8} \((\w+) CRC32", run(path, "-O", "iwarp_mpa")
        )
        self.crc = Counter(verdicts)
        self.lost = tshark(path, "frame.number", only="tcp.analysis.flags")
        self.start_up = [
            bytes.fromhex(data[0])
            for (data,) in tshark(path, "iwarp_mpa.privatedata", only="iwarp_mpa.pdlength")
        ]

    def is_clean(self):
        return not (self.malformed or self.lost) and set(self.crc) <= {"Good"}

    def messages(self):
        return sum(seen.total() for seen in self.opcodes.values())


def exchange(near, far, *, fence=nd.Flag.READ_FENCE):
    """All that may be sent, small and large, both ways; ends with a refused invalidate."""
    there = far.memory("there", BIG, seed=1)
    near.memory("here", BIG, seed=2)
    near.memory("inbox", BIG)
    for at in range(6):
        far.receive("there", context=at)
    near.receive("inbox")
    for size in (0, 1, 7, 100, BIG):
        near.write(there, ("here", 0, size))
    for size in (0, 3, 100, BIG):
        near.read(there, ("inbox", 0, size))
    for size in (0, 13, BIG):
        near.send(("here", 0, size), flags=fence)
    near.send(("here", 0, 21), flags=nd.Flag.SEND_AND_SOLICIT_EVENT)
    assert {r.status for r in near.completions("initiator", 13)} == {nd.Status.SUCCESS}
    far.completions("receive", 4)
    far.send(("there", 0, 5))
    near.received()
    near.send_and_invalidate(far.remote_token("there"), ("here", 0, 5))
    assert far.wait_for_disconnect() == 1
    assert near.wait_for_disconnect() == 1


# Whole messages.
NEAR_SENT = Counter({WRITE: 5, READ_REQUEST: 4, SEND: 3, SEND_SOLICITED: 1, SEND_INVALIDATE: 1})
FAR_SENT = Counter({READ_RESPONSE: 4, SEND: 1, TERMINATE: 1})


@contextlib.contextmanager
def ends(path, *, same_adapter=False):
    """A captured end and another one, of another adapter or of the same."""
    with nd.Adapter.open("soft", capture=str(path)) as adapter:
        near = End(adapter=adapter)
        with nd.Adapter.open("soft") as other:
            far = End(adapter=adapter if same_adapter else other)
            yield near, far
            near.close()
            far.close()


def connect(near, far, host, options=None):
    with ThreadPoolExecutor(1) as thread:
        join(
            near,
            lambda name, **kwargs: thread.submit(getattr(far, name), **kwargs),
            far.listen(host),
            active_options={"private_data": b"from the client", **(options or {})},
            passive_options={"private_data": b"from the server"},
        )
    return near.connector.local_address[1], near.connector.peer_address[1]


@pytest.mark.parametrize("peer_to_peer", [False, True], ids=["client-server", "peer-to-peer"])
@pytest.mark.parametrize("crc", [False, True], ids=["plain", "crc"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"], ids=["ipv4", "ipv6"])
def test_a_dissector_decodes_every_message_that_was_moved(tmp_path, host, crc, peer_to_peer):
    path = tmp_path / "exchange.pcap"
    with ends(path) as (near, far):
        options = {"crc": crc, "peer_to_peer": peer_to_peer}
        near_port, far_port = connect(near, far, host, options)
        exchange(near, far)
        sent = near.adapter.stats()["rdma_out_frames"], far.adapter.stats()["rdma_out_frames"]
    found = Reading(path)
    assert found.is_clean()
    assert found.warnings == dict.fromkeys(OF_REVISION_2, 2)
    assert found.crc == Counter({"Good": found.messages()} if crc else {})
    opening = READ_REQUEST if peer_to_peer else WRITE
    # A peer that says nothing for a while is sent empty Writes.
    nudges = found.last[near_port][WRITE] - (NEAR_SENT + Counter([opening]))[WRITE]
    assert nudges >= 0
    assert found.last[near_port] == NEAR_SENT + Counter([opening]) + Counter({WRITE: nudges})
    assert found.last[far_port] == FAR_SENT + Counter([READ_RESPONSE] if peer_to_peer else [])
    # One opcode for each FPDU, however large those were.
    assert tuple(found.opcodes[port].total() for port in (near_port, far_port)) == sent
    assert [data.removeprefix(words(data)) for data in found.start_up] == [
        b"from the client",
        b"from the server",
    ]


def words(data):
    """The enhanced data, which tshark shows as private data."""
    return data[:4]


@pytest.mark.parametrize("crc", [False, True], ids=["plain", "crc"])
def test_a_dissector_reads_atomics_field_by_field(tmp_path, crc):
    path = tmp_path / "atomics.pcap"
    with ends(path) as (near, far):
        near_port, far_port = connect(near, far, "127.0.0.1", {"crc": crc})
        words_there = far.words("words", 2, values=[40, 5])
        near.words("old", 2)
        near.fetch_add(words_there, 2, ("old", 0, 8))
        near.compare_swap((words_there.address + 8, words_there.token), 5, 9, ("old", 8, 8))
        assert len(near.completions("initiator", 2)) == 2
    found = Reading(path)
    assert found.is_clean()
    # Behind the two start-up frames there is nothing to warn of.
    assert found.warnings == dict.fromkeys(OF_REVISION_2, 2)
    assert found.last[near_port][ATOMIC_REQUEST] == 2
    assert found.last[far_port][ATOMIC_RESPONSE] == 2

    def of_requests(name):
        rows = tshark(path, f"iwarp_rdma.atomic.{name}", only=f"tcp.srcport == {near_port}")
        return [int(value, 0) for (values,) in rows for value in values]

    assert of_requests("opcode") == [0, 2]
    assert of_requests("remote_stag") == [words_there.token] * 2
    assert of_requests("remote_tagged_offset") == [words_there.address, words_there.address + 8]
    assert of_requests("add_data") == [2]
    assert of_requests("swap_data") == [9]
    assert of_requests("compare_data") == [0, 5] or of_requests("compare_data") == [5]
    answers = tshark(
        path,
        "iwarp_rdma.atomic.original_remote_data_value",
        only=f"tcp.srcport == {far_port}",
    )
    assert [int(value, 0) for (values,) in answers for value in values] == [40, 5]


def test_both_ends_of_one_adapter_are_in_the_file_once(tmp_path):
    path = tmp_path / "both.pcap"
    with ends(path, same_adapter=True) as (near, far):
        near_port, _ = connect(near, far, "127.0.0.1")
        exchange(near, far)
        sent = near.adapter.stats()["rdma_out_frames"]
    found = Reading(path)
    assert found.is_clean()
    assert found.warnings == dict.fromkeys(OF_REVISION_2, 2)
    assert found.messages() == sent
    assert found.opcodes[near_port][SEND_INVALIDATE] == 1


def test_several_connections_share_a_file(tmp_path):
    path = tmp_path / "several.pcap"
    with ends(path) as (near, far):
        for _ in range(5):
            connect(near, far, "127.0.0.1")
            near.close_connector()
            far.wait_for_disconnect()
            far.close_connector()
            far.disconnects = 0
            near.qp, far.qp = near.create_qp(), far.create_qp()
        sent = near.adapter.stats()["rdma_out_frames"] + far.adapter.stats()["rdma_out_frames"]
    found = Reading(path)
    assert found.is_clean()
    assert found.messages() == sent
    assert len(found.start_up) == 10


def test_a_capture_that_was_merged_is_read_as_one(tmp_path, monkeypatch):
    parts = tmp_path / "parts"
    parts.mkdir()
    monkeypatch.setenv("NDVERBS_CAPTURE", str(parts))
    with nd.Adapter.open("soft") as one, nd.Adapter.open("soft") as other:
        near, far = End(adapter=one), End(adapter=other)
        connect(near, far, "127.0.0.1")
        exchange(near, far)
        near.close()
        far.close()
        sent = one.stats()["rdma_out_frames"] + other.stats()["rdma_out_frames"]
    path = tmp_path / "merged.pcapng"
    merge(sorted(parts.iterdir()), path)
    rows = tshark(path, "iwarp_rdma.opcode", "tcp.analysis.flags", "_ws.malformed")
    opcodes = [int(opcode, 0) for codes, _, _ in rows for opcode in codes]
    assert len(opcodes) == sent
    assert [row for row in rows if row[1] or row[2]] == []
    with open(path, "rb") as file:
        ours = [frame.fields["opcode"] for frame in _captures.frames(file)]
    assert ours[2:] == [_frames._OPCODES[opcode] for opcode in opcodes]


def test_a_stream_that_came_in_single_bytes_is_decoded(tmp_path):
    path = tmp_path / "drip.pcap"
    with nd.Adapter.open("soft", capture=str(path)) as adapter:
        victim = Victim(adapter)
        stream = victim.stream()
        stream.post_receives(1)
        peer = RawPeer.connect(victim.address)
        whole = request(private_data=b"drip")
        for byte in whole[:-1]:
            peer.send(bytes([byte]))
        stream.accept(peer, start=lambda: whole[-1:])
        stag, to = victim.remote("window")
        drops = [reference.tagged(reference.WRITE, stag, to, b"x" * n, crc=False) for n in range(9)]
        drops.append(reference.untagged(reference.SEND, 0, 1, payload=b"hello", crc=False))
        for byte in b"".join(drops):
            peer.send(bytes([byte]))
        stream.wait_for(1)
        received = adapter.stats()["rdma_in_frames"]
        victim.close()
    found = Reading(path)
    assert found.is_clean()
    assert received == 11
    assert found.messages() == received


def test_what_is_no_mpa_is_in_the_file_all_the_same(tmp_path):
    path = tmp_path / "probe.pcap"
    probe = b"GET / HTTP/1.1\r\nHost: example.net\r\n\r\n"
    with nd.Adapter.open("soft", capture=str(path)) as adapter:
        victim = Victim(adapter)
        with RawPeer.connect(victim.address) as peer:
            peer.send(probe)
            assert peer.receive_all() == b""
        with RawPeer.connect(victim.address) as peer:
            peer.send(request()[:23])
            peer.finish()
            assert peer.receive_all() == b""
        victim.close()
    # Of a stranger's bytes only those are taken that a request could have.
    payload = [bytes.fromhex(data[0]) for (data,) in tshark(path, "tcp.payload") if data]
    assert payload == [probe[:20], request()[:23]]


def test_a_file_that_cannot_be_written_is_an_error_at_open(tmp_path):
    with pytest.raises(nd.RdmaError) as raised:
        nd.Adapter.open("soft", capture=str(tmp_path / "missing" / "x.pcap"))
    assert "missing" in str(raised.value)

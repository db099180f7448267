# SPDX-License-Identifier: Apache-2.0
"""The engine and the start-up against a model of the kernel's siw, in both roles."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ndverbs._testing import Handshake

from engine.pair import FILL, WINDOW_OFFSET, WINDOW_STAG, WINDOW_TO, Side, pattern
from engine.siw_model import Region, SiwModel, power_of_two_from
from wire import reference

SIW_STAG, SIW_TO = 0x6BA90300, 0x558C3B510170
both_roles = pytest.mark.parametrize("siw_initiates", [False, True], ids=["to_siw", "from_siw"])
both_crc = pytest.mark.parametrize("crc", [False, True], ids=["plain", "crc"])


class Session:
    """Our start-up and engine on one end, the model on the other; a byte pipe between."""

    def __init__(self, siw_initiates, *, crc=False, peer_to_peer=False, ird=16, ord_=16, siw=None):
        self.siw = SiwModel(is_initiator=siw_initiates, **(siw or {}))
        self.siw.regions[SIW_STAG] = Region(bytearray([FILL]) * 4096, SIW_TO)
        self.siw.receives.extend([256] * 64)
        self.inbox = bytearray()  # bytes on their way to us
        limits = {"ird": ird, "ord": ord_, "crc": crc}
        if siw_initiates:
            self.siw.start()
            handshake = Handshake.responder()
            self._exchange(handshake)
            assert handshake.accept(private_data=b"ours", **limits)
        else:
            handshake = Handshake.initiator(
                private_data=b"ours", peer_to_peer=peer_to_peer, **limits
            )
        self._exchange(handshake)
        assert handshake.outcome == "agreed", (handshake.outcome, self.siw.dropped)
        assert self.siw.is_up, self.siw.dropped
        self.agreement = handshake.agreement
        self.side = Side(
            "ours",
            is_initiator=not siw_initiates,
            max_fpdu=1448,
            **{key: self.agreement[key] for key in ("crc", "rtr", "ird", "ord")},
        )
        self.side.add_window()
        self.engine = self.side.engine
        for context in range(16):
            self.engine.post_receive(500 + context, [(context * 64, 64)])

    def _exchange(self, handshake):
        self.siw.deliver(handshake.transmit())
        self.inbox += self.siw.take()
        del self.inbox[: handshake.receive(bytes(self.inbox))]

    def settle(self, sizes=(1 << 30,)):
        for size in itertools.islice(itertools.cycle(sizes), 100_000):
            self.engine.begin(0)
            written = self.engine.transmit(size)
            part = bytes(self.inbox[:size])
            taken = len(part) if self.engine.is_over else self.engine.receive(part)
            del self.inbox[:taken]
            moved = len(written) + taken + self.side.collect()
            self.engine.end()
            self.siw.deliver(written)
            self.inbox += self.siw.take()
            if not moved and not self.inbox:
                if self.engine.is_over:
                    self.siw.end_of_stream()
                return self
            if not moved and not self.engine.wants_read:
                return self
        raise AssertionError("the exchange does not come to rest")

    def assert_siw_is_content(self):
        assert self.siw.dropped is None
        assert self.siw.terminated is None


@both_roles
def test_siw_and_we_connect(siw_initiates):
    session = Session(siw_initiates, siw={"private_data": b"siw's"})
    session.settle().assert_siw_is_content()
    assert session.siw.peer_private_data == b"ours"
    assert not session.agreement["crc"]
    assert session.agreement["rtr"] == "none"


@both_roles
def test_siw_takes_crc_when_we_ask_for_it(siw_initiates):
    session = Session(siw_initiates, crc=True)
    session.settle().assert_siw_is_content()
    assert session.siw.crc


@pytest.mark.parametrize(("siw_limits", "ours"), [((1, 1), (16, 16)), ((16, 16), (1, 2))])
@both_roles
def test_limits_fit_on_both_sides(siw_initiates, siw_limits, ours):
    siw = {"ird": siw_limits[0], "ord_": siw_limits[1]}

    session = Session(siw_initiates, ird=ours[0], ord_=ours[1], siw=siw)

    assert session.agreement["ord"] <= power_of_two_from(session.siw.ird)
    assert session.siw.ord <= max(1, session.agreement["ird"])


def exchange(session):
    engine, siw = session.engine, session.siw
    engine.write(0x400, pattern(0x800))
    big = pattern(3000, 5)
    engine.post_write(1, [(0x400, 2000)], SIW_STAG, SIW_TO)
    engine.post_send(2, [(0x400, 17)])
    engine.post_read(3, [(0xC00, 900)], SIW_STAG, SIW_TO + 100)
    engine.post_send(4, [(0x400, 200)], solicited=True)
    engine.post_write(5, [], SIW_STAG, SIW_TO)
    engine.post_read(6, [], 1, 0)
    engine.post_send(7, [])
    siw.write(WINDOW_STAG, WINDOW_TO, big[:1900])
    siw.send(b"from siw")
    siw.read(0x43F49800, 0x5580, 700, WINDOW_STAG, WINDOW_TO + 10)
    siw.send(b"x" * 3, reference.SEND_SOLICITED)
    siw.send(b"")
    siw.read(0x43F49800, 0x5580, 0, 1, 0)
    return big


def assert_exchanged(session, big):
    session.assert_siw_is_content()
    side, siw = session.side, session.siw
    assert side.contexts(receives=False) == [1, 2, 3, 4, 5, 6, 7]
    assert set(side.statuses(receives=False)) == {"success"}
    assert side.contexts(receives=True) == [500, 501, 502]
    assert siw.regions[SIW_STAG].memory[:2000] == pattern(0x800)[:2000]
    assert side.engine.read(0xC00, 900) == pattern(0x800)[100:1000]
    assert side.engine.read(WINDOW_OFFSET, 1900) == big[:1900]
    assert side.engine.read(0, 8) == b"from siw"
    assert siw.received == [
        (reference.SEND, pattern(17)),
        (reference.SEND_SOLICITED, pattern(200)),
        (reference.SEND, b""),
    ]
    assert siw.completed_reads == [big[10:710], b""]


@both_crc
@both_roles
def test_every_operation_works_in_both_directions(siw_initiates, crc):
    session = Session(siw_initiates, crc=crc)
    if siw_initiates:
        session.engine.release_hold()
    big = exchange(session)

    session.settle()

    assert_exchanged(session, big)


@both_roles
@given(sizes=st.lists(st.integers(1, 2000), min_size=1, max_size=10), crc=st.booleans())
def test_every_operation_works_through_any_cuts(siw_initiates, sizes, crc):
    session = Session(siw_initiates, crc=crc)
    if siw_initiates:
        session.engine.release_hold()
    big = exchange(session)

    session.settle(sizes)

    assert_exchanged(session, big)


def test_with_peer_to_peer_mode_siw_waits_for_our_opening_message():
    session = Session(False, peer_to_peer=True)
    assert session.agreement["rtr"] == "write"
    assert session.siw.waits_for_first_fpdu

    session.siw.send(b"held back")
    assert session.siw.outbox == b""
    session.settle().assert_siw_is_content()
    assert session.side.statuses(receives=True) == ["success"]


@pytest.mark.parametrize("ird", [1, 3, 5])
def test_siw_may_send_more_reads_than_it_was_told(ird):
    session = Session(True, ird=ird)

    session.engine.release_hold()
    assert session.siw.ord == ird

    for _ in range(power_of_two_from(ird)):
        session.siw.read(7, 0, 100, WINDOW_STAG, WINDOW_TO)
    session.settle().assert_siw_is_content()
    assert len(session.siw.completed_reads) == power_of_two_from(ird)


def post(name, *arguments, **options):
    return lambda engine: getattr(engine, name)(1, *arguments, **options)


DATA = [(0x400, 8)]
REFUSED_BY_SIW = {
    "write_unknown_stag": (post("post_write", DATA, 0x9900, 0), (1, 1, 0)),
    "write_out_of_bounds": (post("post_write", DATA, SIW_STAG, SIW_TO + 4090), (1, 1, 1)),
    "write_below": (post("post_write", DATA, SIW_STAG, SIW_TO - 1), (1, 1, 1)),
    "write_other_pd": (post("post_write", DATA, 0x200, 0), (1, 1, 2)),
    "write_no_right": (post("post_write", DATA, 0x300, 0), (1, 1, 0)),
    "read_unknown_stag": (post("post_read", DATA, 0x9900, 0), (0, 1, 0)),
    "read_out_of_bounds": (post("post_read", DATA, SIW_STAG, SIW_TO + 4090), (0, 1, 1)),
    "read_other_pd": (post("post_read", DATA, 0x200, 0), (0, 1, 3)),
    "send_too_long": (post("post_send", [(0x400, 300)]), (1, 2, 2)),
    "invalidate_unknown": (post("post_send", DATA, invalidate=0x9900), (0, 2, 9)),
    "invalidate_other_pd": (post("post_send", DATA, invalidate=0x200), (0, 1, 9)),
}


@both_crc
@pytest.mark.parametrize("case", REFUSED_BY_SIW)
def test_what_siw_refuses_is_reported_with_the_meaning_of_its_terminate(case, crc):
    request, code = REFUSED_BY_SIW[case]
    session = Session(False, crc=crc)
    session.siw.regions[0x200] = Region(bytearray(64), 0, pd=2)
    session.siw.regions[0x300] = Region(bytearray(64), 0, remote_write=False)
    assert request(session.engine)

    session.settle()
    assert session.siw.terminated is not None
    assert session.engine.cause == ("peer", *code)
    assert session.engine.is_over

    is_read = case.startswith("read")
    assert session.side.statuses(receives=False) == ["remote_resources" if is_read else "success"]
    assert set(session.side.statuses(receives=True)) == {"cancelled"}


def test_a_send_without_a_receive_at_siw_ends_the_stream():
    session = Session(False)
    session.siw.receives.clear()
    session.engine.post_send(1, DATA)

    session.settle()

    assert session.engine.cause == ("peer", 1, 2, 2)


@both_roles
def test_our_terminate_ends_the_stream_at_siw(siw_initiates):
    session = Session(siw_initiates)
    session.siw.write(0x9900, 0, b"data")

    session.settle()

    assert session.engine.cause == ("local", 1, 1, 0)
    assert session.siw.dropped == "peer's Terminate 1100c000"


@both_roles
def test_siw_speaks_first_over_a_stream_without_opening_message(siw_initiates):
    session = Session(siw_initiates)

    session.siw.send(b"first")

    session.settle().assert_siw_is_content()
    assert session.side.statuses(receives=True) == ["success"]


def test_the_model_is_as_strict_as_siw_about_bytes_behind_a_frame():
    request = Handshake.initiator().transmit()
    siw = SiwModel(is_initiator=False)

    siw.deliver(request + b"\0")
    assert siw.dropped == "bytes behind the MPA frame"

    siw = SiwModel(is_initiator=False)
    siw.deliver(request[:20])
    siw.deliver(request[20:])
    assert siw.is_up
    assert siw.take() == bytes.fromhex("4d504120494420526570204672616d65 10 02 0004 0010 0010")


def test_we_answer_siw_with_nothing_behind_the_reply():
    siw = SiwModel(is_initiator=True)
    siw.start()
    responder = Handshake.responder()
    responder.receive(siw.take())
    responder.accept()
    side = Side("ours", is_initiator=False)
    side.engine.post_send(1, [(0, 4)])
    side.engine.begin(0)
    siw.deliver(responder.transmit() + side.engine.transmit())

    side.engine.end()

    assert siw.is_up


@pytest.mark.parametrize(
    ("stream", "dropped", "terminated"),
    [
        (reference.untagged(3, 0, 2, 0, b"x", crc=False), None, "21030300"),
        (reference.untagged(3, 0, 1, 1, b"x", crc=False), None, "21040300"),
        (reference.untagged(3, 1, 1, 0, b"x", crc=False), None, "21010300"),
        (
            reference.tagged(0, SIW_STAG, SIW_TO, b"ab", last=False, crc=False)
            + reference.tagged(2, 1, 0, b"ab", crc=False),
            "a tagged message changed its opcode",
            None,
        ),
        (reference.tagged(2, 1, 0, b"ab", crc=False), None, "01000300"),
        (reference.fpdu(bytes.fromhex("4148") + bytes(24), False), None, "20060000"),
    ],
)
def test_the_model_is_as_strict_as_siw_about_messages(stream, dropped, terminated):
    siw = SiwModel(is_initiator=False)
    siw.receives.append(64)
    siw.regions[SIW_STAG] = Region(bytearray(64), SIW_TO)
    siw.deliver(Handshake.initiator().transmit())

    siw.deliver(stream)

    assert siw.dropped == dropped
    assert siw.terminated is None or siw.terminated[:4].hex() == terminated
    assert (siw.terminated is None) is (terminated is None)


def test_a_fin_is_an_error_to_siw():
    session = Session(False)
    session.settle().assert_siw_is_content()
    session.siw.end_of_stream()
    assert session.siw.dropped == "FIN"

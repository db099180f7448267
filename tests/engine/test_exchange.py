# SPDX-License-Identifier: Apache-2.0
"""Streams cut anywhere carry the same messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import exchange
from engine.pair import cut_at, cycle, one_byte
from wire import reference

both_crc = pytest.mark.parametrize("crc", [False, True], ids=["plain", "crc"])


@both_crc
def test_every_kind_of_message_arrives(crc):
    exchange.assert_finished(exchange.start(crc).settle())


@both_crc
def test_the_stream_is_whole_fpdus_with_a_correct_crc(crc):
    pair = exchange.start(crc).settle()
    for side in (pair.a, pair.b):
        stream = bytes(side.inbound.sent)
        fpdus, rest = reference.split_fpdus(stream)
        assert rest == b""
        rebuilt = b"".join(reference.fpdu(ulpdu, crc) for ulpdu, _ in fpdus)
        assert rebuilt == stream
        assert max(6 + len(ulpdu) for ulpdu, _ in fpdus) <= exchange.MAX_FPDU


@both_crc
@pytest.mark.parametrize("direction", ["a_to_b", "b_to_a"])
def test_every_cut_position_of_what_is_read(crc, direction):
    total = len(link(exchange.start(crc).settle(), direction).sent)
    for position in range(1, total):
        pair = exchange.start(crc)
        link(pair, direction).read_policy = cut_at(position)
        exchange.assert_finished(pair.settle())


@both_crc
@pytest.mark.parametrize("direction", ["a_to_b", "b_to_a"])
def test_every_cut_position_of_what_is_written(crc, direction):
    total = len(link(exchange.start(crc).settle(), direction).sent)
    for position in range(1, total):
        pair = exchange.start(crc)
        link(pair, direction).write_policy = cut_at(position)
        exchange.assert_finished(pair.settle())


@both_crc
def test_one_byte_per_read(crc):
    pair = exchange.start(crc)
    pair.a.inbound.read_policy = pair.b.inbound.read_policy = one_byte
    exchange.assert_finished(pair.settle())


@both_crc
def test_one_byte_per_write(crc):
    pair = exchange.start(crc)
    pair.a.inbound.write_policy = pair.b.inbound.write_policy = one_byte
    exchange.assert_finished(pair.settle())


@both_crc
def test_one_byte_per_write_and_read(crc):
    pair = exchange.start(crc)
    for side in (pair.a, pair.b):
        side.inbound.write_policy = side.inbound.read_policy = one_byte
    exchange.assert_finished(pair.settle())


sizes = st.lists(st.integers(1, 200), min_size=1, max_size=12)


@both_crc
@given(a_reads=sizes, b_reads=sizes, a_writes=sizes, b_writes=sizes)
def test_random_cuts_of_reads_and_writes(crc, a_reads, b_reads, a_writes, b_writes):
    pair = exchange.start(crc)
    pair.a.inbound.read_policy = cycle(a_reads)
    pair.b.inbound.read_policy = cycle(b_reads)
    pair.a.inbound.write_policy = cycle(b_writes)
    pair.b.inbound.write_policy = cycle(a_writes)

    exchange.assert_finished(pair.settle())


@both_crc
@pytest.mark.parametrize("pieces", [2, 3, 5, 64])
@pytest.mark.parametrize("budget", [1, 50, 1 << 20])
def test_gather_lists_and_budgets_of_any_size(crc, pieces, budget):
    pair = exchange.start(crc)
    pair.options = {"pieces": pieces, "budget": budget}
    exchange.assert_finished(pair.settle())


def test_queue_positions_wrap_through_two_to_the_32():
    exchange.assert_finished(exchange.start(False, start_position=2**32 - 4).settle())


def link(pair, direction):
    return pair.b.inbound if direction == "a_to_b" else pair.a.inbound

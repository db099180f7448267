# SPDX-License-Identifier: Apache-2.0
"""Rules of the stream protocol, one a test, on engines without a queue pair."""

import pytest

from ndverbs import _testing
from stream.engines import (
    CONTROL,
    DATA,
    DISCONNECT,
    IOMAP,
    SHUTDOWN,
    TARGETS,
    UPDATE,
    connection_data,
    descriptor,
    make_pair,
    mapping,
    word,
)


def make_engine(peer=None, *, segments=2, size=100, **options):
    engine = _testing.StreamEngine(**options)
    for index in range(segments):
        engine.add_segment((index * 1000, index + 50, size))
    engine.local_data(TARGETS, 1)
    assert engine.start(peer or connection_data()) is None
    return engine


def drain(engine):
    return list(iter(engine.poll_control, None))


def test_the_first_message_grants_the_second_segment_into_entry_one():
    engine = make_engine(credits=384)

    first = engine.poll_control()

    assert first["word"] == word(UPDATE, 384)
    assert first["target"] == (TARGETS + 16, 1, 16)
    assert first["bytes"] == descriptor(1000, 51, 100)
    assert engine.poll_control() is None


def test_over_iwarp_an_accepting_end_is_silent_until_its_peer_has_spoken():
    engine = make_engine(waits_for_peer=True)

    engine.request_keepalive()

    assert engine.poll_control() is None
    assert engine.sendable == 0
    assert engine.handle_message(word(UPDATE, 64)) is None
    assert [bool(control["word"]) for control in drain(engine)] == [True, False]
    assert engine.sendable == 4096


def test_an_accepting_end_waits_for_nobody_where_messages_are_immediate_data():
    engine = make_engine(waits_for_peer=True, immediate=True)
    assert engine.poll_control()["word"] == word(UPDATE, 64)
    assert engine.sendable == 4096


def test_the_next_descriptors_go_to_entry_zero_and_one_in_turn():
    engine = make_engine()
    drain(engine)
    entries = []

    for _ in range(3):
        assert engine.handle_message(word(DATA, 100)) is None
        engine.consume(100)
        entries += [control["target"][0] for control in drain(engine)]

    assert entries == [TARGETS, TARGETS + 16, TARGETS]


def test_a_peer_with_more_entries_has_them_filled_in_turn():
    engine = make_engine(connection_data(targets=3))
    entries = [control["target"][0] for control in drain(engine)]

    for _ in range(3):
        engine.handle_message(word(DATA, 100))
        engine.consume(100)
        entries += [control["target"][0] for control in drain(engine)]

    assert entries == [TARGETS + 16 * i for i in (1, 2, 0, 1)]


def test_a_segment_that_is_not_consumed_is_not_granted_again():
    engine = make_engine()
    drain(engine)
    engine.handle_message(word(DATA, 100))

    engine.consume(99)
    assert drain(engine) == []

    engine.consume(1)
    assert [control["bytes"] for control in drain(engine)] == [descriptor(0, 50, 100)]


def test_a_segment_with_a_retained_view_is_not_granted_while_another_is_free():
    engine = make_engine(segments=3)
    assert [control["bytes"] for control in drain(engine)] == [descriptor(2000, 52, 100)]

    engine.handle_message(word(DATA, 100))
    view = engine.take(100)
    assert view == (0, 0, 100)
    assert [control["bytes"] for control in drain(engine)] == [descriptor(1000, 51, 100)]

    engine.release(view)
    assert drain(engine) == []  # two are granted already

    engine.handle_message(word(DATA, 100))
    assert [control["bytes"] for control in drain(engine)] == [descriptor(0, 50, 100)]


def test_views_of_one_segment_may_be_released_in_any_order():
    engine = make_engine()
    drain(engine)
    engine.handle_message(word(DATA, 100))
    views = [engine.take(40), engine.take(40), engine.take(40)]
    assert [view[2] for view in views] == [40, 40, 20]

    engine.release(views[2])
    engine.release(views[0])
    assert drain(engine) == []

    engine.release(views[1])
    assert len(drain(engine)) == 1


def test_more_memory_is_wanted_when_the_peer_could_use_it_and_none_is_free():
    engine = make_engine()

    drain(engine)
    assert not engine.wants_segment

    engine.handle_message(word(DATA, 100))
    assert engine.wants_segment

    engine.add_segment((5000, 60, 100))
    assert [control["bytes"] for control in drain(engine)] == [descriptor(5000, 60, 100)]


def test_credits_come_back_when_half_of_them_are_used():
    engine = make_engine(credits=8)
    drain(engine)

    for _ in range(3):
        engine.handle_message(word(DATA, 1))
    assert drain(engine) == []

    engine.handle_message(word(DATA, 1))
    assert [control["word"] for control in drain(engine)] == [word(UPDATE, 12)]


def test_sequence_numbers_wrap_at_sixteen_bits():
    engine = make_engine(credits=64, size=2**20)
    drain(engine)

    for _ in range(70_000):
        assert engine.handle_message(word(DATA, 1)) is None
        engine.poll_control()

    assert engine.readable == 70_000


def test_a_mapping_of_the_peer_takes_a_credit_that_comes_back():
    engine = make_engine(credits=8, iomap_entries=1)

    drain(engine)

    for _ in range(4):
        assert engine.handle_message(word(IOMAP, 0)) is None
    assert [control["word"] for control in drain(engine)] == [word(UPDATE, 12)]


def test_a_mapping_of_the_peer_is_found_by_offset_once_its_message_has_come():
    engine = make_engine(iomap_entries=2)

    engine.write_targets(32 + 24, mapping(5000, 0x7000, 7, 100))

    assert engine.find_mapping(5000) == (0, 0, 0)
    assert engine.handle_message(word(IOMAP, 1)) is None
    assert engine.find_mapping(5000) == (0x7000, 7, 100)
    assert engine.find_mapping(5099) == (0x7000 + 99, 7, 1)
    assert engine.find_mapping(5100) == engine.find_mapping(4999) == (0, 0, 0)


def test_a_mapping_where_there_is_no_room_breaks_the_protocol():
    engine = make_engine(iomap_entries=2)
    assert "room for 2" in engine.handle_message(word(IOMAP, 2))


def test_the_peer_is_told_of_a_mapping_before_later_data():
    engine = make_engine(connection_data(iomap_entries=2))

    drain(engine)
    assert engine.add_mapping(5, (0x7000, 7, 100)) == 0
    assert engine.add_mapping(6, (0x8000, 8, 200)) == 1
    assert engine.sendable == 0

    first, second = drain(engine)
    assert first["target"] == (TARGETS + 32, 1, 24)
    assert first["bytes"] == mapping(5, 0x7000, 7, 100)
    assert first["word"] == word(IOMAP, 0)
    assert second["target"] == (TARGETS + 32 + 24, 1, 24)
    assert engine.sendable > 0


def test_a_message_about_a_mapping_takes_a_credit():
    engine = make_engine(connection_data(iomap_entries=1, credits=2), immediate=True)
    engine.add_mapping(0, (0x7000, 7, 100))
    drain(engine)

    engine.take_chunk(1)
    assert engine.sendable == 0

    number = engine.add_mapping(0, (0x7000, 7, 100))
    assert "room for 1" in number

    engine.remove_mapping(0)
    assert engine.add_mapping(0, (0x7000, 7, 100)) == 0
    assert drain(engine) == []
    assert engine.handle_message(word(UPDATE, 3)) is None
    assert [control["word"] for control in drain(engine)] == [word(IOMAP, 0)]


def test_a_mapping_that_was_taken_back_in_time_is_never_told():
    engine = make_engine(connection_data(iomap_entries=1))
    drain(engine)

    engine.remove_mapping(engine.add_mapping(0, (0x7000, 7, 100)))

    assert drain(engine) == []
    assert engine.sendable > 0


def test_chunks_fill_the_memory_that_the_peer_granted_and_no_more():
    engine = make_engine(connection_data(data=(0x9000, 9, 100)), max_chunk=64)
    assert engine.take_chunk(1000) == (0x9000, 9, 64, word(DATA, 64))
    assert engine.take_chunk(1000) == (0x9040, 9, 36, word(DATA, 36))
    assert engine.sendable == 0


@pytest.mark.parametrize("cut", range(1, 16))
def test_a_descriptor_that_has_arrived_in_part_is_not_used(cut):
    engine = make_engine(connection_data(data=(0x9000, 9, 10)))
    engine.take_chunk(10)
    whole = descriptor(0xFFFF_0102_0304_0506, 0x0708090A, 0x0B0C0D)

    engine.write_targets(16, whole[:cut])
    assert engine.sendable == 0

    engine.write_targets(16 + cut, whole[cut:])
    assert engine.take_chunk(1)[:2] == (0xFFFF_0102_0304_0506, 0x0708090A)


def test_the_next_chunk_goes_where_the_next_descriptor_says():
    engine = make_engine(connection_data(data=(0x9000, 9, 10)))
    engine.take_chunk(10)

    engine.write_targets(16, descriptor(0x4000, 4, 20))
    assert engine.handle_message(word(UPDATE, 64)) is None
    assert engine.take_chunk(100) == (0x4000, 4, 20, word(DATA, 20))
    assert engine.sendable == 0  # entry 0 was not written since

    engine.write_targets(0, descriptor(0x5000, 5, 30))
    assert engine.take_chunk(100) == (0x5000, 5, 30, word(DATA, 30))


def test_over_iwarp_the_last_four_credits_are_kept_for_other_messages():
    engine = make_engine(connection_data(credits=16, data=(0, 9, 4096)))
    sent = 0

    while engine.sendable:
        engine.take_chunk(1)
        sent += 1

    assert sent == 12
    assert engine.handle_message(word(UPDATE, 18)) is None
    assert engine.sendable


def test_with_immediate_data_all_credits_are_used():
    engine = make_engine(connection_data(credits=16, data=(0, 9, 4096)), immediate=True)
    sent = 0

    while engine.sendable:
        engine.take_chunk(1)
        sent += 1

    assert sent == 16


def test_a_keepalive_is_an_empty_write_without_a_message():
    engine = make_engine()
    drain(engine)

    engine.request_keepalive()

    assert engine.poll_control() == {"word": None, "target": (0, 0, 0), "bytes": b""}


def test_shutting_the_writing_side_sends_shutdown_and_reading_goes_on():
    engine = make_engine()
    drain(engine)

    engine.shut_write()

    assert [control["word"] for control in drain(engine)] == [word(CONTROL, SHUTDOWN)]
    assert engine.sendable == 0
    assert engine.handle_message(word(DATA, 5)) is None
    assert engine.readable == 5
    assert not engine.is_over


def test_shutting_after_the_peer_has_shut_sends_disconnect():
    engine = make_engine()

    drain(engine)
    assert engine.handle_message(word(CONTROL, SHUTDOWN)) is None
    assert engine.is_peer_shut

    engine.shut_write()
    assert [control["word"] for control in drain(engine)] == [word(CONTROL, DISCONNECT)]
    assert engine.is_over


def test_two_shutdowns_that_cross_end_the_stream():
    near, far = make_pair()
    for end in (near, far):
        end.wants_end = "shut_write"
        end.transmit()

    for end, peer in ((near, far), (far, near)):
        while end.wire:
            peer.deliver(end.wire.popleft())

    assert near.engine.is_over
    assert far.engine.is_over


def test_after_disconnect_nothing_is_sent():
    engine = make_engine()

    engine.disconnect()
    assert [control["word"] for control in drain(engine)] == [word(CONTROL, DISCONNECT)]

    engine.handle_message(word(DATA, 100))
    engine.consume(100)
    engine.request_keepalive()
    assert drain(engine) == []


def test_data_before_a_disconnect_stays_readable():
    engine = make_engine()
    engine.handle_message(word(DATA, 7))

    engine.handle_message(word(CONTROL, DISCONNECT))

    assert engine.is_peer_gone
    assert engine.readable == 7
    assert engine.sendable == 0
    assert drain(engine) == []


@pytest.mark.parametrize("message", [word(2, 9), word(CONTROL, 1), word(CONTROL, 77)])
def test_messages_without_a_meaning_here_are_ignored(message):
    engine = make_engine()
    assert engine.handle_message(message) is None
    assert engine.readable == 0


@pytest.mark.parametrize("op", [1, 3, 5])
def test_a_reserved_message_breaks_the_protocol(op):
    assert f"message {op} is not defined" in make_engine().handle_message(word(op, 1))


def test_a_data_message_of_no_bytes_breaks_the_protocol():
    assert "no bytes" in make_engine().handle_message(word(DATA, 0))


def test_data_beyond_the_granted_memory_breaks_the_protocol():
    assert "100 are left" in make_engine().handle_message(word(DATA, 101))


def test_a_message_across_two_segments_breaks_the_protocol():
    engine = make_engine()
    drain(engine)

    engine.handle_message(word(DATA, 60))

    assert "40 are left" in engine.handle_message(word(DATA, 41))


def test_data_without_memory_breaks_the_protocol():
    engine = make_engine()
    engine.handle_message(word(DATA, 100))
    assert "without memory" in engine.handle_message(word(DATA, 1))


def test_more_messages_than_credits_break_the_protocol():
    engine = make_engine(credits=3)
    for _ in range(3):
        assert engine.handle_message(word(DATA, 1)) is None
    assert "credits" in engine.handle_message(word(DATA, 1))


def test_data_after_shutdown_breaks_the_protocol():
    engine = make_engine()
    engine.handle_message(word(CONTROL, SHUTDOWN))
    assert "after its end" in engine.handle_message(word(DATA, 1))


def test_credits_beyond_the_peers_queue_break_the_protocol():
    assert "with a queue of 64" in make_engine().handle_message(word(UPDATE, 65))


def test_credits_that_go_backwards_break_the_protocol():
    engine = make_engine()
    engine.take_chunk(1)
    assert "credits" in engine.handle_message(word(UPDATE, 0))


def test_a_peer_without_room_for_descriptors_is_refused():
    engine = _testing.StreamEngine()
    engine.add_segment((0, 1, 100))

    engine.local_data(TARGETS, 1)

    assert "no room for descriptors" in engine.start(connection_data(targets=0))


def test_over_iwarp_a_peer_of_the_other_byte_order_is_refused():
    engine = _testing.StreamEngine()
    engine.add_segment((0, 1, 100))

    engine.local_data(TARGETS, 1)

    assert "other byte order" in engine.start(connection_data(big_endian=True))


def test_with_immediate_data_descriptors_for_the_other_byte_order_are_swapped():
    engine = _testing.StreamEngine(immediate=True)
    engine.add_segment((0, 1, 100))
    engine.add_segment((0x1122334455667788, 0xAABBCCDD, 100))

    engine.local_data(TARGETS, 1)

    assert engine.start(connection_data(big_endian=True)) is None
    assert engine.poll_control()["bytes"] == bytes.fromhex("1122334455667788aabbccdd00000064")

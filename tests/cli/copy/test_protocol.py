# SPDX-License-Identifier: Apache-2.0
"""The control messages of a copy: golden bytes, round trips, and strangers' bytes."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndverbs.cli.filecopy.protocol import (
    MAX_MESSAGE,
    MAX_NAME,
    MAX_SIZE,
    Check,
    Commit,
    CopyError,
    Done,
    Entries,
    Entry,
    EntryKind,
    Failure,
    Fetch,
    Flags,
    Found,
    Have,
    Keep,
    List,
    MakeDirectory,
    Message,
    More,
    Reason,
    Store,
    Window,
    Wrote,
    decode,
    encode,
    printable,
)

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)

MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        Store,
        st.binary(max_size=MAX_NAME),
        st.integers(0, MAX_SIZE),
        st.integers(0, 15).map(Flags),
    ),
    st.builds(Fetch, st.binary(max_size=MAX_NAME)),
    st.builds(List, st.binary(max_size=MAX_NAME)),
    st.builds(MakeDirectory, st.binary(max_size=MAX_NAME)),
    st.builds(Found, st.integers(0, MAX_SIZE)),
    st.builds(More),
    st.builds(
        Entries,
        st.lists(
            st.builds(
                Entry,
                st.binary(max_size=255),
                st.sampled_from(EntryKind),
                st.integers(0, MAX_SIZE),
            ),
            max_size=15,
        ).map(tuple),
        st.booleans(),
    ),
    st.builds(Have, U64),
    st.builds(Check, U64, U32),
    st.builds(Keep, U64),
    st.builds(Window, st.integers(0, 2**62), st.integers(1, 2**30), st.integers(0, 2**63), U32),
    st.builds(Wrote, U64, U64, U32),
    st.builds(Commit, U64, U32),
    st.builds(Done, U64, U32),
    st.builds(
        Failure,
        st.sampled_from(Reason),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=200),
    ),
)

# Written down by hand from the table in cli/filecopy/protocol.py.
GOLDEN = [
    (
        Store(b"a/b.bin", 258, Flags.FORCE),
        "4e444350 02 01 0000 00000001 0000000000000102 0007 612f622e62696e",
    ),
    (
        Window(0x1000, 0x200, 0x7F0000000000, 0xABCD1234),
        "4e444350 02 02 0000 0000000000001000 0000000000000200 00007f0000000000 abcd1234",
    ),
    (Wrote(1, 2, 3), "4e444350 02 03 0000 0000000000000001 0000000000000002 00000003"),
    (Commit(5, 6), "4e444350 02 04 0000 0000000000000005 00000006"),
    (Done(5, 6), "4e444350 02 05 0000 0000000000000005 00000006"),
    (Failure(Reason.DISK_FULL, "no"), "4e444350 02 06 0000 0006 0002 6e6f"),
    (Fetch(b"ab"), "4e444350 02 07 0000 0002 6162"),
    (Found(7), "4e444350 02 08 0000 0000000000000007"),
    (MakeDirectory(b"d"), "4e444350 02 09 0000 0001 64"),
    (List(b"."), "4e444350 02 0a 0000 0001 2e"),
    (
        Entries((Entry(b"a", EntryKind.FILE, 258), Entry(b"bc", EntryKind.DIRECTORY, 0)), True),
        "4e444350 02 0b 0000 01 0002 00 0000000000000102 01 61 01 0000000000000000 02 6263",
    ),
    (More(), "4e444350 02 0c 0000"),
    (Have(3), "4e444350 02 0d 0000 0000000000000003"),
    (Check(3, 4), "4e444350 02 0e 0000 0000000000000003 00000004"),
    (Keep(3), "4e444350 02 0f 0000 0000000000000003"),
]


def assert_message_or_error(data: bytes) -> None:
    """Decode; nothing but a CopyError may come out of strangers' bytes."""
    with contextlib.suppress(CopyError):
        assert encode(decode(data))[:4] == b"NDCP"


@pytest.mark.parametrize(("message", "text"), GOLDEN, ids=lambda v: type(v).__name__)
def test_a_message_has_these_bytes(message: Message, text: str):
    assert encode(message) == bytes.fromhex(text)
    assert decode(bytes.fromhex(text)) == message


@given(MESSAGES)
def test_a_message_survives_its_bytes(message: Message):
    data = encode(message)

    assert len(data) <= MAX_MESSAGE
    assert decode(data) == message


@given(st.binary(max_size=MAX_MESSAGE + 8))
def test_any_bytes_are_a_message_or_a_copy_error(data: bytes):
    assert_message_or_error(data)


@given(st.integers(0, 16), st.binary(max_size=64))
def test_any_body_is_a_message_or_a_copy_error(kind: int, body: bytes):
    assert_message_or_error(b"NDCP\x02" + bytes([kind]) + b"\0\0" + body)


@given(MESSAGES, st.data())
def test_a_message_cut_short_is_a_copy_error(message: Message, data: st.DataObject):
    whole = encode(message)
    cut = data.draw(st.integers(0, len(whole) - 1))

    with pytest.raises(CopyError):
        decode(whole[:cut])


@given(MESSAGES)
def test_a_message_with_a_byte_too_many_is_a_copy_error(message: Message):
    with pytest.raises(CopyError):
        decode(encode(message) + b"\0")


def test_another_version_is_named():
    data = bytearray(encode(Commit(1, 2)))
    data[4] = 9

    with pytest.raises(
        CopyError, match=r"speaks version 9 of the copy protocol, the other version 2"
    ):
        decode(bytes(data))


def test_a_failure_of_another_version_can_still_be_read():
    data = bytearray(encode(Failure(Reason.PROTOCOL, "speak version 9")))
    data[4] = 9

    assert decode(bytes(data)) == Failure(Reason.PROTOCOL, "speak version 9")


@pytest.mark.parametrize(
    "message",
    [
        Store(b"a", MAX_SIZE + 1),
        Store(b"a", 1, Flags(64)),
        Window(0, 0, 0, 0),
        Window(0, 2**30 + 1, 0, 0),
        Window(MAX_SIZE, 1, 0, 0),
        Window(0, 16, 2**64 - 8, 0),
        Found(MAX_SIZE + 1),
        Entries((Entry(b"a", EntryKind.FILE, MAX_SIZE + 1),), is_last=True),
    ],
    ids=str,
)
def test_values_that_cannot_be_are_refused(message: Message):
    with pytest.raises(CopyError):
        decode(encode(message))


@pytest.mark.parametrize(
    "body",
    [
        "00 0001",  # an entry that is not there
        "00 0000 61",  # a byte too many
        "02 0000",  # no truth value
        "01 0001 03 0000000000000000 01 61",  # no kind
        "01 0001 00 0000000000000000 02 61",  # a name cut short
    ],
)
def test_entries_that_cannot_be_are_refused(body: str):
    with pytest.raises(CopyError):
        decode(b"NDCP\x02\x0b\0\0" + bytes.fromhex(body))


def test_a_full_list_of_entries_fits_a_message():
    longest = Entry(b"n" * 255, EntryKind.FILE, MAX_SIZE)
    count = -(-(Entries.FULL + 1) // longest.length)

    assert len(encode(Entries((longest,) * count, is_last=True))) <= MAX_MESSAGE


def test_a_failure_text_cannot_steer_the_terminal():
    answer = decode(encode(Failure(Reason.BUSY, "\x1b[2J\r\n\u202e'x'")))

    assert isinstance(answer, Failure)
    assert answer.text == "\\x1b[2J\\r\\n\\u202e'x'"


@given(st.text())
def test_printable_text_is_printable(text: str):
    assert printable(text).isprintable()


def test_a_long_failure_text_is_cut_to_the_limit():
    answer = decode(encode(Failure(Reason.BUSY, "x" * 5000)))

    assert isinstance(answer, Failure)
    assert len(answer.text) == 1024

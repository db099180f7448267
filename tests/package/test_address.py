# SPDX-License-Identifier: Apache-2.0
"""Addresses as users write them."""

import re
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndverbs import RdmaError, Status
from ndverbs._address import is_numeric, resolve, split, text


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:7471", ("127.0.0.1", 7471)),
        ("[::1]:7471", ("::1", 7471)),
        ("[fe80::1%eth0]:1", ("fe80::1%eth0", 1)),
        ("host.example:0", ("host.example", 0)),
        ("host:65535", ("host", 65535)),
        (("::1", 7471), ("::1", 7471)),
        (("host", 0), ("host", 0)),
        (("::1", 7471, 0, 0), ("::1", 7471)),
    ],
)
def test_an_address_splits_into_host_and_port(address, expected):
    assert split(address) == expected


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("", "the port is missing"),
        ("host", "the port is missing"),
        (":7471", "the host is missing"),
        ("*:7471", "the host '*' names none; every IPv4 interface is"),
        ("tcp://host:7471", "it takes no scheme"),
        ("host:", "the port '' is not a number"),
        ("host:-1", "the port '-1' is not a number"),
        ("host:7472/x", "is for attach"),
        ("host:7471x", "is not a number"),
        ("host:٣", "is not a number"),
        ("host: 1", "is not a number"),
        ("host:65536", "the port 65536 is not in 0 to 65535"),
        ("host:" + "9" * 10_000, "is not in 0 to 65535"),
        ("::1:7471", "an IPv6 host needs brackets"),
        ("[::1]", "an IPv6 host is written as"),
        ("[::1]7471", "an IPv6 host is written as"),
        ("[::1:7471", "an IPv6 host is written as"),
        ("[]:1", "the host is missing"),
        (("", 1), "the host is missing"),
        (("host", -1), "the port -1 is not in 0 to 65535"),
        (("host", 1 << 70), "is not in 0 to 65535"),
    ],
)
def test_what_is_no_address_says_why(address, reason):
    with pytest.raises(RdmaError, match=re.escape(reason)) as caught:
        split(address)
    assert isinstance(caught.value, ValueError)
    assert caught.value.status is Status.INVALID_ADDRESS


@pytest.mark.parametrize("address", [None, 7471, ("host",), ("host", "7471"), (1, 2), ("h", True)])
def test_what_is_neither_text_nor_a_pair_is_a_type_error(address):
    with pytest.raises(TypeError, match="an address is a string"):
        split(address)


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_a_value_error(address):
    try:
        host, port = split(address)
    except RdmaError as error:
        host, port = str(error), error.status
    assert ("is not an address" in host) == (port is Status.INVALID_ADDRESS)
    assert host


@given(st.ip_addresses(), st.integers(0, 65535))
def test_the_text_of_an_ip_address_splits_into_it_again(ip, port):
    assert split(text((str(ip), port))) == (str(ip), port)
    assert is_numeric(str(ip))


def test_numeric_hosts_are_not_looked_up(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("looked up"))
    assert resolve("127.0.0.1:7471") == ("127.0.0.1", 7471)
    assert resolve(("::1", 7471)) == ("::1", 7471)
    assert resolve("[fe80::1%lo]:7471") == ("fe80::1%lo", 7471)


def found(*addresses):
    """What getaddrinfo answers for these IP addresses."""
    return [
        (
            socket.AF_INET6 if ":" in address else socket.AF_INET,
            socket.SOCK_STREAM,
            6,
            "",
            (address, 1, 0, 0) if ":" in address else (address, 1),
        )
        for address in addresses
    ]


def test_of_several_addresses_the_first_ipv4_one_is_taken(monkeypatch):
    answer = found("::1", "127.0.0.1", "127.0.0.2")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    assert resolve("both:7471") == ("127.0.0.1", 7471)


def test_a_name_with_ipv6_only_gives_that(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found("::1"))
    assert resolve("six:7471") == ("::1", 7471)


def test_an_unknown_name_says_so(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(RdmaError, match=r"'nowhere\.invalid' cannot be resolved") as caught:
        resolve("nowhere.invalid:1")
    assert caught.value.status is Status.INVALID_ADDRESS
    assert isinstance(caught.value, ValueError)


def test_a_name_that_cannot_be_encoded_says_so():
    with pytest.raises(RdmaError, match="cannot be resolved"):
        resolve(("a" * 70 + ".invalid", 1))

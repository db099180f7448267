# SPDX-License-Identifier: Apache-2.0
"""WSK sockets: options, controls, addresses and names."""

import socket

import pytest

import ndverbs as nd
from ndverbs import wsk
from stream.sockets import LIMIT
from stream.wsk_ends import RECEIVE


def test_options_are_set_and_got_and_inherited(adapter, host):
    set_, get = wsk.RequestType.SET_OPTION, wsk.RequestType.GET_OPTION
    with wsk.listen((host, 0), adapter=adapter) as listening:
        listening.control(set_, wsk.Option.SO_RCVBUF, 100_000)
        listening.control(set_, wsk.Option.SO_KEEPALIVE, 1)

        with (
            wsk.socket_connect((host, 0), listening.local_address, adapter),
            listening.accept(LIMIT) as far,
        ):
            assert far.control(get, wsk.Option.SO_RCVBUF) == 100_000
            assert far.control(get, wsk.Option.SO_KEEPALIVE) == 1

        assert listening.control(get, wsk.Option.SO_CONDITIONAL_ACCEPT) == 0
        with pytest.raises(nd.RdmaError, match="before the socket is bound"):
            listening.control(set_, wsk.Option.SO_CONDITIONAL_ACCEPT, 1)


@pytest.mark.parametrize("option", [wsk.Option.SO_REUSEADDR, wsk.Option.SO_EXCLUSIVEADDRUSE])
def test_address_options_are_kept(adapter, option):
    with wsk.socket(adapter) as sock:
        sock.control(wsk.RequestType.SET_OPTION, option, 1)
        assert sock.control(wsk.RequestType.GET_OPTION, option) == 1


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (wsk.RequestType.SET_OPTION, wsk.Option.SO_WSK_SECURITY),
        (wsk.RequestType.GET_OPTION, 0x7777),
        (wsk.RequestType.IOCTL, wsk.Ioctl.SIO_WSK_SET_TCP_SILENT_MODE),
        (wsk.RequestType.IOCTL, wsk.Ioctl.SIO_WSK_SET_REMOTE_ADDRESS),
    ],
)
def test_controls_that_mean_nothing_here_are_not_supported(ends, kind, code):
    with pytest.raises(nd.RdmaError) as caught:
        ends.near.control(kind, code, 1)
    assert caught.value.status == nd.Status.NOT_SUPPORTED


def test_an_inspect_id_is_only_had_after_an_inspection(ends):
    with pytest.raises(nd.RdmaError) as caught:
        ends.far.control(wsk.RequestType.IOCTL, wsk.Ioctl.SIO_WSK_QUERY_INSPECT_ID)
    assert caught.value.status == nd.Status.INVALID_DEVICE_REQUEST


def test_addresses_are_listed(ends, adapter):
    found = ends.near.control(wsk.RequestType.IOCTL, wsk.Ioctl.SIO_ADDRESS_LIST_QUERY)
    assert found == adapter.info.addresses


def test_names_are_resolved_both_ways():
    rows = wsk.get_address_info("127.0.0.1", "80").result(LIMIT)
    assert rows[0][4] == ("127.0.0.1", 80)
    flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    assert wsk.get_name_info(("127.0.0.1", 80), flags).result(LIMIT) == ("127.0.0.1", "80")


def test_a_name_that_is_unknown_is_no_match():
    with pytest.raises(nd.RdmaError) as caught:
        wsk.get_address_info("name.invalid", flags=socket.AI_NUMERICHOST).result(LIMIT)
    assert caught.value.status == nd.Status.NO_MATCH
    with pytest.raises(ValueError, match="node or a service"):
        wsk.get_address_info()


def test_transports_are_listed(provider):
    rows = wsk.control_client(wsk.ClientControl.TRANSPORT_LIST_QUERY)
    assert provider.partition(":")[0] in {row["adapter"].partition(":")[0] for row in rows}
    with pytest.raises(nd.RdmaError) as caught:
        wsk.control_client(wsk.ClientControl.TDI_BEHAVIOR)
    assert caught.value.status == nd.Status.NOT_SUPPORTED


def test_static_events_are_chosen_before_the_first_socket(ends):
    with pytest.raises(nd.RdmaError, match="before the first socket"):
        wsk.control_client(wsk.ClientControl.SET_STATIC_EVENT_CALLBACKS, RECEIVE)


def test_static_events_are_on_in_every_socket_for_good(ends, monkeypatch, make_ends):
    monkeypatch.setattr(wsk._events, "static", wsk._events.Static())
    wsk.set_static_event_callbacks(RECEIVE)
    made = make_ends(on_receive=lambda _, shown, __: made.told.put(bytes(shown[0].array)))

    made.far.send(b"static").result(LIMIT)

    assert made.next() == b"static"
    with pytest.raises(nd.RdmaError, match="for good"):
        made.near.set_event_callbacks(RECEIVE | wsk.EventMask.DISABLE)


CONTROLS = {
    "no request type": (99, wsk.Option.SO_KEEPALIVE),
    "got event callbacks": (wsk.RequestType.GET_OPTION, wsk.Option.SO_WSK_EVENT_CALLBACK),
    "unknown ioctl": (wsk.RequestType.IOCTL, 0x1234),
    "ioctl of datagrams": (wsk.RequestType.IOCTL, wsk.Ioctl.SIO_WSK_SET_SENDTO_ADDRESS),
    "addresses": (wsk.RequestType.IOCTL, wsk.Ioctl.SIO_ADDRESS_LIST_QUERY),
    "security": (wsk.RequestType.GET_OPTION, wsk.Option.SO_WSK_SECURITY),
    "unknown option": (wsk.RequestType.SET_OPTION, 0x7777, 1),
    "keepalive": (wsk.RequestType.GET_OPTION, wsk.Option.SO_KEEPALIVE),
    "exclusive": (wsk.RequestType.GET_OPTION, wsk.Option.SO_EXCLUSIVEADDRUSE),
    "bad value": (wsk.RequestType.SET_OPTION, wsk.Option.SO_RCVBUF, -1),
    "event without a mask": (wsk.RequestType.SET_OPTION, wsk.Option.SO_WSK_EVENT_CALLBACK, 0),
}


@pytest.mark.parametrize("level", [wsk.SOL_SOCKET, socket.SOL_SOCKET])
@pytest.mark.parametrize("asked", CONTROLS.values(), ids=CONTROLS)
def test_both_kinds_of_sockets_answer_controls_alike(adapter, host, asked, level):
    def answer(owner):
        try:
            return owner.control(*asked, level=level)
        except nd.RdmaError as refused:
            return refused.status

    with wsk.socket(adapter) as sock, wsk.listen((host, 0), adapter=adapter) as listening:
        assert answer(sock) == answer(listening)


@pytest.mark.parametrize(
    ("row", "asked", "refused"),
    [
        ({"get": lambda owner: 7}, wsk.RequestType.GET_OPTION, None),
        ({"get": lambda owner: 7}, wsk.RequestType.SET_OPTION, "option 0x7777 is only got"),
        ({"set": lambda owner, value: 7}, wsk.RequestType.SET_OPTION, None),
        ({"set": lambda owner, value: 7}, wsk.RequestType.GET_OPTION, "option 0x7777 is only set"),
        ({"get": lambda owner: 7}, wsk.RequestType.IOCTL, "ioctl 0x7777 is not supported"),
    ],
)
def test_a_row_of_the_table_is_a_control_of_both_kinds_of_sockets(
    adapter, host, monkeypatch, row, asked, refused
):
    control = wsk._control.Control(wsk.SOL_SOCKET, **row)
    monkeypatch.setitem(wsk._control.CONTROLS, 0x7777, control)

    with wsk.socket(adapter) as sock, wsk.listen((host, 0), adapter=adapter) as listening:
        for owner in (sock, listening):
            if refused is None:
                assert owner.control(asked, 0x7777, 1) == 7
            else:
                with pytest.raises(nd.RdmaError, match=refused):
                    owner.control(asked, 0x7777, 1)


def test_a_control_of_one_kind_of_sockets_is_not_supported_on_the_other(adapter, host):
    get, ioctl = wsk.RequestType.GET_OPTION, wsk.RequestType.IOCTL
    with wsk.socket(adapter) as sock, wsk.listen((host, 0), adapter=adapter) as listening:
        with pytest.raises(nd.RdmaError, match=r"SO_CONDITIONAL_ACCEPT .* on a connection socket"):
            sock.control(get, wsk.Option.SO_CONDITIONAL_ACCEPT)
        with pytest.raises(nd.RdmaError, match=r"INSPECT_ID .* on a listening socket") as caught:
            listening.control(ioctl, wsk.Ioctl.SIO_WSK_QUERY_INSPECT_ID)
    assert caught.value.status == nd.Status.NOT_SUPPORTED


@pytest.mark.parametrize("level", [wsk.SOL_SOCKET, socket.SOL_SOCKET])
def test_options_have_the_level_of_wsk_and_that_of_linux(adapter, level):
    with wsk.socket(adapter) as sock:
        sock.control(wsk.RequestType.SET_OPTION, wsk.Option.SO_KEEPALIVE, 1, level=level)
        assert sock.control(wsk.RequestType.GET_OPTION, wsk.Option.SO_KEEPALIVE) == 1
    with wsk.socket(adapter) as sock:
        kind = wsk.RequestType
        sock.control(kind.SET_OPTION, socket.TCP_KEEPIDLE, 60, level=socket.IPPROTO_TCP)
        assert sock.control(kind.GET_OPTION, socket.TCP_KEEPIDLE, level=socket.IPPROTO_TCP) == 60


def test_a_value_that_an_option_cannot_have_is_an_invalid_parameter(adapter):
    with wsk.socket(adapter) as sock, pytest.raises(nd.RdmaError, match="-1 bytes") as caught:
        sock.control(wsk.RequestType.SET_OPTION, wsk.Option.SO_RCVBUF, -1)
    assert caught.value.status == nd.Status.INVALID_PARAMETER


def test_a_buffer_size_that_is_set_before_the_connect_is_the_connections(adapter, listening, host):
    with wsk.socket(adapter) as sock:
        sock.control(wsk.RequestType.SET_OPTION, wsk.Option.SO_RCVBUF, 16384)
        sock.bind((host, 0))
        sock.connect(listening.local_address).result(LIMIT)
        with listening.accept(LIMIT) as far:
            assert sock._stream.memory_use < far._stream.memory_use
            before = sock._stream.memory_use
            sock.control(wsk.RequestType.SET_OPTION, wsk.Option.SO_RCVBUF, 1 << 20)
            assert sock._stream.memory_use == before

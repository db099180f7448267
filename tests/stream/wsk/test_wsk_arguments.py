# SPDX-License-Identifier: Apache-2.0
"""What WSK sockets take: memory of any type, numbers of any kind."""

import numpy as np
import pytest

from ndverbs import wsk
from stream.arrays import ARRAYS, OBJECTS
from stream.sockets import LIMIT


@ARRAYS
def test_wsk_takes_the_arrays_that_sockets_take(ends, array):
    ends.near.send(array).result(LIMIT)

    target = np.zeros_like(array)
    assert ends.far.receive(target, wsk.Flag.WAITALL).result(LIMIT) == array.nbytes
    assert target.tobytes() == array.tobytes()

    ends.near.disconnect(array).result(LIMIT)
    received = bytearray(max(1, array.nbytes))
    assert ends.far.receive(received, wsk.Flag.WAITALL).result(LIMIT) == array.nbytes


@OBJECTS
def test_arrays_of_python_objects_are_no_memory_of_requests(ends, array):
    near = ends.near
    address = near.remote_address
    for call in (near.send, near.receive, near.disconnect, lambda a: near.connect_ex(address, a)):
        with pytest.raises(BufferError, match="holds Python objects"):
            call(array)


def test_numbers_of_numpy_are_taken(adapter, host):
    kind = wsk.RequestType
    with wsk.listen((host, np.int64(0)), adapter=adapter, backlog=np.int64(2)) as listening:
        listening.control(kind.SET_OPTION, np.int64(wsk.Option.SO_RCVBUF), np.int64(65536))
        assert listening.control(kind.GET_OPTION, wsk.Option.SO_RCVBUF) == 65536

        listening.set_event_callbacks(np.int64(wsk.EventMask.ACCEPT))
        with wsk.socket_connect((host, np.int64(0)), listening.local_address, adapter) as sock:
            sock.set_event_callbacks(np.uint32(wsk.EventMask.DISCONNECT))
            listening.accept(LIMIT).close()


@pytest.mark.parametrize("backlog", [-1, 0, 1 << 31, 1 << 70])
def test_a_backlog_of_any_size_is_taken(adapter, host, backlog):
    wsk.listen((host, 0), adapter=adapter, backlog=backlog).close()

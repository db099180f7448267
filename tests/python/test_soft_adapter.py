# SPDX-License-Identifier: Apache-2.0
"""The soft adapter that is bound to one address of this host."""

import pytest

import ndverbs as nd
from conformance.end import LIMIT, End


def test_address_of_another_host_opens_no_adapter():
    with pytest.raises(nd.RdmaError) as caught:
        nd.Adapter.open("soft:192.0.2.1")

    assert caught.value.status == nd.Status.INVALID_ADDRESS


def test_adapter_of_one_address_connects_from_it():
    passive = End("soft")
    address = passive.listen()
    with nd.Adapter.open("soft:127.0.0.5") as adapter:
        pd, cq = adapter.create_pd(), adapter.create_cq(8)
        connector = adapter.create_connector()
        operation = connector._start_connect(pd.create_qp(cq, cq), None, address)
        passive.take_request()
        assert passive.incoming.peer_address[0] == "127.0.0.5"
        passive.incoming.reject()
        with pytest.raises(ConnectionRefusedError):
            operation.wait(LIMIT)
    passive.close()

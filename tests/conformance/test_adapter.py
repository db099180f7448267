# SPDX-License-Identifier: Apache-2.0
"""Opening adapters, what they say about themselves, and their close."""

import pytest

import ndverbs as nd
from conformance.end import LIMIT, End

pytestmark = pytest.mark.tsan

# NDK 1.2 demands at least these of every adapter.
LEAST = {
    "max_initiator_request_sge": 1,
    "max_receive_request_sge": 1,
    "max_read_request_sge": 1,
    "max_transfer_length": 1 << 30,
    "max_inbound_read_limit": 1,
    "max_outbound_read_limit": 1,
    "max_receive_queue_depth": 128,
    "max_initiator_queue_depth": 128,
    "max_cq_depth": 256,
    "max_registration_size": 1 << 32,
}


def test_listed_adapter_can_be_opened_by_its_name(provider):
    names = [info.name for info in nd.adapters() if info.provider == provider]

    assert names
    for name in names:
        with nd.Adapter.open(name) as adapter:
            assert adapter.info.name == name
            assert adapter.info.provider == provider


def test_info_names_limits_that_programs_can_live_with(adapter):
    for name, least in LEAST.items():
        assert getattr(adapter.info, name) >= least


def test_info_is_the_same_before_and_after_opening(provider, adapter):
    (listed,) = [info for info in nd.adapters() if info.name == adapter.info.name]

    for name in (*LEAST, "adapter_flags", "rdma_technology", "features", "version"):
        assert getattr(listed, name) == getattr(adapter.info, name)


@pytest.mark.parametrize("name", ["", "nonsense", "SOFT", "soft:nonsense"])
def test_unknown_adapter_is_a_value_error_that_names_it(name):
    with pytest.raises(ValueError, match=f'"{name.rpartition(":")[2]}"'):
        nd.Adapter.open(name)


def test_address_of_another_host_opens_no_adapter(provider):
    with pytest.raises(nd.RdmaError) as caught:
        nd.Adapter.open(f"{provider}:192.0.2.1")

    assert caught.value.status == nd.Status.INVALID_ADDRESS


def test_environment_chooses_the_adapter_that_has_no_name(provider, monkeypatch):
    monkeypatch.setenv("NDVERBS_ADAPTER", provider)
    with nd.Adapter.open() as adapter:
        assert adapter.info.provider == provider

    monkeypatch.setenv("NDVERBS_ADAPTER", "nonsense")
    with pytest.raises(ValueError, match="nonsense"):
        nd.Adapter.open()


def test_adapter_of_one_address_connects_from_it(provider):
    passive = End(provider)
    address = passive.listen()
    with nd.Adapter.open(f"{provider}:127.0.0.5") as adapter:
        pd, cq = adapter.create_pd(), adapter.create_cq(8)
        connector = adapter.create_connector()
        operation = connector._start_connect(pd.create_qp(cq, cq), None, address)
        passive.take_request()
        assert passive.incoming.peer_address[0] == "127.0.0.5"
        passive.incoming.reject()
        with pytest.raises(ConnectionRefusedError):
            operation.wait(LIMIT)
    passive.close()


def test_counters_begin_at_zero(adapter):
    assert set(adapter.stats().values()) == {0}


def test_several_adapters_are_independent(provider):
    first, second = nd.Adapter.open(provider), nd.Adapter.open(provider)
    pd = second.create_pd()

    first.close()

    with pd.register(bytearray(8)) as region:
        assert region.local_token
    second.close()


def test_close_is_idempotent_and_says_so(provider):
    adapter = nd.Adapter.open(provider)
    assert not adapter.closed

    adapter.close()
    adapter.close()

    assert adapter.closed
    with pytest.raises(nd.ClosedError):
        _ = adapter.info
    with pytest.raises(nd.ClosedError), adapter:
        pass

# SPDX-License-Identifier: Apache-2.0
"""Opening adapters, what they say about themselves, and their close."""

import pytest

import ndverbs as nd

pytestmark = pytest.mark.tsan

# NDK 1.2 demands at least these of every adapter.
LEAST = {
    "max_initiator_request_sge": 1,
    "max_receive_request_sge": 1,
    "max_read_request_sge": 1,
    "max_transfer_length": 1 << 20,
    "max_inbound_read_limit": 1,
    "max_outbound_read_limit": 1,
    "max_receive_queue_depth": 128,
    "max_initiator_queue_depth": 128,
    "max_cq_depth": 256,
    "max_registration_size": 1 << 32,
}


def test_listed_adapter_can_be_opened_by_its_name(provider):
    kind = provider.partition(":")[0]
    names = [info.name for info in nd.adapters() if info.provider == kind]

    assert provider in names
    for name in names:
        with nd.Adapter.open(name) as adapter:
            assert adapter.info.name == name
            assert adapter.info.provider == kind


def test_info_names_limits_that_programs_can_live_with(adapter):
    for name, least in LEAST.items():
        assert getattr(adapter.info, name) >= least


def test_info_is_the_same_before_and_after_opening(provider, adapter):
    (listed,) = [info for info in nd.adapters() if info.name == adapter.info.name]

    for name in (*LEAST, "adapter_flags", "rdma_technology", "features", "version"):
        assert getattr(listed, name) == getattr(adapter.info, name)


def test_faults_are_taken_where_there_are_some_and_refused_elsewhere(provider, adapter):
    if "faults" in adapter.info.features:
        with nd.Adapter.open(provider, faults=nd.Faults()) as faulty:
            assert faulty.info == adapter.info
    else:
        with pytest.raises(nd.RdmaError, match="no faults on demand") as caught:
            nd.Adapter.open(provider, faults=nd.Faults())
        assert caught.value.status == nd.Status.NOT_SUPPORTED


@pytest.mark.parametrize("name", ["", "nonsense", "SOFT", "soft:nonsense"])
def test_unknown_adapter_is_a_value_error_that_names_it(name):
    with pytest.raises(ValueError, match=f'"{name.rpartition(":")[2]}"'):
        nd.Adapter.open(name)


def test_environment_chooses_the_adapter_that_has_no_name(provider, monkeypatch):
    monkeypatch.setenv("NDVERBS_ADAPTER", provider)
    with nd.Adapter.open() as adapter:
        assert adapter.info.name == provider

    monkeypatch.setenv("NDVERBS_ADAPTER", "nonsense")
    with pytest.raises(ValueError, match="nonsense"):
        nd.Adapter.open()


def test_counters_begin_at_zero(adapter):
    own = {name: n for name, n in adapter.stats().items() if not name.startswith("device_")}

    assert set(own.values()) == {0}
    assert {"connect", "accept", "connect_failure", "connection_error"} < set(own)


def test_addresses_are_those_that_listeners_take(adapter):
    assert adapter.info.addresses
    for address in adapter.info.addresses:
        with adapter.create_listener() as listener:
            listener.listen((address, 0))
            assert listener.local_address[0] == address


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

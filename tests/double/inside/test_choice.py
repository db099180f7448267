# SPDX-License-Identifier: Apache-2.0
"""Which device is chosen."""

import pytest

import ndverbs as nd
from double import control


def test_device_without_reliable_connections_is_passed_over(provider):
    control.claim_host_addresses(provider)

    with nd.Adapter.open("auto") as adapter:
        assert adapter.info.name == provider
    with nd.Adapter.open("verbs") as adapter:
        assert adapter.info.name == provider


def test_auto_is_soft_where_no_device_has_an_address(provider):
    with nd.Adapter.open("auto") as adapter:
        assert adapter.info.name == "soft"


def test_device_without_reliable_connections_says_so(provider):
    with (
        nd.Adapter.open("verbs:double_efa") as adapter,
        adapter.create_pd() as pd,
        adapter.create_cq(16) as cq,
        pytest.raises(nd.RdmaError) as raised,
    ):
        pd.create_qp(cq, cq, max_receive_sge=1, max_initiator_sge=1)

    assert raised.value.status == nd.Status.NOT_SUPPORTED
    assert "double_efa" in str(raised.value)


def test_removed_device_is_not_listed(provider):
    control.remove(provider)

    assert provider not in [info.name for info in nd.adapters()]

# SPDX-License-Identifier: Apache-2.0
"""The tests of the guest that mean something across the translation, run across it."""

# ruff: noqa: F401
from lab.interop.test_perftest import (
    test_data_that_ib_write_bw_writes_arrives,
    test_every_message_of_ib_send_bw_arrives,
    test_ib_read_bw_gets_what_the_region_holds,
)
from lab.interop.test_rping import (
    test_one_rping_server_serves_soft_clients_one_after_the_other,
    test_rping_client_verifies_what_the_soft_server_echoes,
    test_soft_client_that_asks_for_crc_is_served,
    test_soft_client_verifies_what_the_rping_server_echoes,
    test_soft_server_that_asks_for_crc_is_served_by_the_rping_client,
)
from lab.interop.test_ucmatose import (
    test_ucmatose_client_sends_back_what_the_soft_server_sent_last,
    test_ucmatose_server_sends_every_message_and_takes_ours,
)

# SPDX-License-Identifier: Apache-2.0
"""The tests of the guest that mean something across the translation, run across it."""

# ruff: noqa: F401
from lab.interop.test_perftest import (
    test_data_that_ib_write_bw_writes_arrives,
    test_every_message_of_ib_send_bw_arrives,
    test_ib_read_bw_gets_what_the_region_holds,
)
from lab.interop.test_preloaded_programs import (
    preloaded,
    test_curl_posts_a_file_twice_to_the_standard_librarys_server,
    test_netcat_sends_a_file_to_our_server_and_prints_the_answer,
    test_netcat_that_listens_receives_a_file_from_our_client,
)
from lab.interop.test_rping import (
    test_one_rping_server_serves_soft_clients_one_after_the_other,
    test_rping_client_verifies_what_the_soft_server_echoes,
    test_soft_client_that_asks_for_crc_is_served,
    test_soft_client_verifies_what_the_rping_server_echoes,
    test_soft_server_that_asks_for_crc_is_served_by_the_rping_client,
)
from lab.interop.test_rsockets import (
    test_rcopy_client_copies_a_file_to_our_server,
    test_riostream_client_writes_into_our_memory_and_we_into_its,
    test_riostream_server_writes_into_our_memory_and_we_into_its,
    test_rstream_client_verifies_what_our_server_sends,
    test_rstream_server_verifies_what_our_client_sends,
)
from lab.interop.test_ucmatose import (
    test_ucmatose_client_sends_back_what_the_soft_server_sent_last,
    test_ucmatose_server_sends_every_message_and_takes_ours,
)

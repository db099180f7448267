# SPDX-License-Identifier: Apache-2.0
"""The tests of streams with programs of the guest's, run across the translation."""

# ruff: noqa: F401
from lab.interop.test_preloaded_programs import (
    preloaded,
    test_curl_posts_a_file_twice_to_the_standard_librarys_server,
    test_netcat_sends_a_file_to_our_server_and_prints_the_answer,
    test_netcat_that_listens_receives_a_file_from_our_client,
)
from lab.interop.test_rsockets import (
    test_rcopy_client_copies_a_file_to_our_server,
    test_riostream_client_writes_into_our_memory_and_we_into_its,
    test_riostream_server_writes_into_our_memory_and_we_into_its,
    test_rstream_client_verifies_what_our_server_sends,
    test_rstream_server_verifies_what_our_client_sends,
)

# SPDX-License-Identifier: Apache-2.0
"""Runs classes of CPython's own test.test_socket with our sockets in place of its own.

    python cpython_socket_tests.py CLASS...

Its status is 0 when all passed, and the output is unittest's.
"""

import socket
import sys
import types
import unittest

from test.support import socket_helper

import ndverbs as nd

# What does not apply to a stream over RDMA.
LEFT_OUT = {
    # there is no descriptor that carries the data
    *("testDetach", "testDup", "testFromFd", "testSetBlocking", "testSetBlocking_overflow"),
    # there is no ancillary data, whatever it looks like
    *("testSendmsgBadArgs", "testSendmsgBadCmsg", "testSendmsgBadMultiCmsg"),
    # read-only memory is a BufferError
    "testRecvmsgIntoBadArgs",
    # what is sent to a peer that has closed is refused at once, not at the second attempt
    *("testOutsideTimeout", "testCreateConnectionClose"),
    # replace parts of the module that have no place in ours, or use datagrams
    *("test_create_connection_timeout", "testNonRegularFile", "test_errors"),
}


def bind_port(sock, host=socket_helper.HOST):
    """Bind without the module's look at options that only TCP has."""
    sock.bind((host, 0))
    return sock.getsockname()[1]


class Socket(nd.Socket):
    """Takes socket.socket's "whatever is usual" for each argument."""

    def __init__(self, family=-1, type=-1, proto=-1, **options):
        super().__init__(
            socket.AF_INET if family == -1 else family,
            socket.SOCK_STREAM if type == -1 else type,
            max(proto, 0),
            **options,
        )


def main():
    socket_helper.bind_port = bind_port
    from test import test_socket

    module = types.ModuleType("socket")
    module.__dict__.update(socket.__dict__)
    module.socket = Socket
    nd.Socket._sendfile_use_send = socket.socket._sendfile_use_send
    module.create_connection = nd.create_connection
    module.create_server = nd.create_server
    test_socket.socket = module
    suite = unittest.TestSuite()
    for name in sys.argv[1:]:
        cls = getattr(test_socket, name)
        names = unittest.defaultTestLoader.getTestCaseNames(cls)
        suite.addTests(cls(test) for test in names if test not in LEFT_OUT)
    return not unittest.TextTestRunner(verbosity=2).run(suite).wasSuccessful()


if __name__ == "__main__":
    with nd.Adapter.open("soft"):  # kept open between the tests
        sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""The addresses of this machine that a provider's ends connect through.

A device is reached by the addresses of its network interface. The environment variable
NDVERBS_TEST_ADDRESSES names them: ``verbs:siw0=192.0.2.1,2001:db8::1;verbs:rxe0=...``. A device
that it does not name uses the loopback addresses; the device double knows its own.
"""

import os
from typing import NamedTuple

from double import control


class Addresses(NamedTuple):
    v4: str
    v6: str
    other_v4: str | None  # a second one of the same interface


def addresses_of(provider):
    for entry in os.environ.get("NDVERBS_TEST_ADDRESSES", "").split(";"):
        name, _, rest = entry.partition("=")
        if name == provider:
            v4, v6, *more = rest.split(",")
            return Addresses(v4, v6, more[0] if more else None)
    if control.is_double(provider):
        return Addresses(*control.addresses(provider))
    return Addresses("127.0.0.1", "::1", "127.0.0.2")

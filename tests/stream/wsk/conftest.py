# SPDX-License-Identifier: Apache-2.0
"""What the tests of WSK's rules share: a listening socket, and connected pairs."""

import pytest

from ndverbs import wsk
from stream.wsk_ends import Ends


@pytest.fixture
def listening(adapter, host):
    with wsk.listen((host, 0), adapter=adapter) as made:
        yield made


@pytest.fixture
def make_ends(listening, adapter, host):
    made = []

    def make(**callbacks):
        made.append(Ends(listening, adapter, host, **callbacks))
        return made[-1]

    yield make
    for ends in made:
        ends.close()


@pytest.fixture
def ends(make_ends):
    return make_ends()

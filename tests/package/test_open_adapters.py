# SPDX-License-Identifier: Apache-2.0
"""Adapters that are left open: they close all the same, and say so where files and sockets do."""

import pytest

import ndverbs as nd
from programs import run


def test_an_adapter_that_is_dropped_open_warns():
    adapter = nd.Adapter.open("soft")
    with pytest.warns(ResourceWarning, match=r"unclosed <Adapter soft>"):
        del adapter


@pytest.mark.parametrize("end", ["adapter.close()", "adapter.__exit__(None, None, None)"])
def test_an_adapter_that_is_closed_does_not_warn(end: str):
    program = f"import ndverbs as nd; adapter = nd.Adapter.open('soft'); {end}; del adapter"

    assert run(program, "-X", "dev") == ("", "")


def test_an_adapter_that_is_open_at_exit_warns_where_sockets_do():
    program = "import ndverbs as nd; adapter = nd.Adapter.open('soft')"

    assert run(program) == ("", "")
    assert "ResourceWarning: unclosed <Adapter soft>" in run(program, "-X", "dev")[1]


def test_the_adapter_that_sockets_share_is_nobodys_to_close():
    program = "import ndverbs as nd; nd.create_server(('127.0.0.1', 0)).close()"

    assert "Adapter" not in run(program, "-X", "dev")[1]

# SPDX-License-Identifier: Apache-2.0
"""Those conformance tests that need no more than two ends, with one end on each provider.

Not those about starting a connection: they end it half-way, which siw's kernel does not survive, or
are about limits of one provider. test_start_up.py has what they share.
"""

import importlib

from lab.interop.pairs.deviations import DEVIATIONS

_MODULES = [
    "test_disconnect",
    "test_flags",
    "test_read_write",
    "test_remote_access",
    "test_send_receive",
]
_FIXTURES = {"ends", "idle_ends", "make_ends"}


def _tests_of(module):
    """Give the tests whose arguments are ends, or come from their own parametrization."""
    for name, test in vars(module).items():
        if not name.startswith("test_"):
            continue
        code = test.__code__
        arguments = set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
        for mark in getattr(test, "pytestmark", []):
            if mark.name == "parametrize":
                names = mark.args[0]
                arguments -= set(
                    names.replace(" ", "").split(",") if isinstance(names, str) else names
                )
        if arguments and arguments <= _FIXTURES:
            yield name, test


for _name in _MODULES:
    for _test_name, _test in _tests_of(importlib.import_module(f"conformance.{_name}")):
        assert _test_name not in globals(), f"two tests are named {_test_name}"
        globals()[_test_name] = _test


def test_every_deviation_is_about_a_test_that_exists():
    tests = {
        f"{test.__module__.rpartition('.')[2]}.py::{name}"
        for name, test in globals().items()
        if name.startswith("test_")
    }
    assert {deviation.test for deviation in DEVIATIONS} <= tests

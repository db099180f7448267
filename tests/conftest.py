# SPDX-License-Identifier: Apache-2.0
"""What tests share: providers and their deviations, adapters, and the leak check."""

import gc
import sys

import pytest
from hypothesis import settings

from conformance import deviations
from double import control

# The provider that every host has; tests that use none run with it.
_EVERYWHERE = "soft"
_FAILED = pytest.StashKey[bool]()


def pytest_addoption(parser):
    parser.addoption(
        "--providers",
        default=_EVERYWHERE,
        help="the providers that the conformance suite runs on, with commas in between",
    )
    parser.addoption(
        "--effort",
        type=float,
        default=1.0,
        help="how often tests repeat what they repeat many times, in parts of the usual",
    )
    parser.addoption(
        "--first-seed",
        type=int,
        default=0,
        help="where simulations start to count their seeds; any but 0: property tests draw anew",
    )


def pytest_configure(config):
    # The same examples in every run, so that a change is all that makes a difference.
    is_fixed = config.getoption("--first-seed") == 0
    settings.register_profile("ndverbs", derandomize=is_fixed, deadline=None, print_blob=True)
    settings.load_profile("ndverbs")
    if any(map(control.is_double, config.getoption("--providers").split(","))):
        control.load()


def pytest_generate_tests(metafunc):
    if "provider" in metafunc.fixturenames:
        names = metafunc.config.getoption("--providers").split(",")
        metafunc.parametrize("provider", names, scope="session")


def pytest_collection_modifyitems(config, items):
    if _EVERYWHERE not in config.getoption("--providers").split(","):
        # A run for devices: what touches no provider was run elsewhere.
        idle = [item for item in items if "provider" not in item.fixturenames]
        config.hook.pytest_deselected(items=idle)
        items[:] = [item for item in items if "provider" in item.fixturenames]
    for item in items:
        provider = getattr(item, "callspec", None) and item.callspec.params.get("provider")
        if provider is not None:
            test = f"{item.path.name}::{item.originalname}"
            deviations.mark(item, deviations.DEVIATIONS, test, provider)


@pytest.fixture(scope="session")
def scaled(pytestconfig):
    """Give ``scaled(count)``: how often to repeat something on this machine, at least twice."""
    return lambda count: max(2, round(count * pytestconfig.getoption("--effort")))


@pytest.fixture(scope="session")
def first_seed(pytestconfig):
    """Give the number that simulations add to their seeds."""
    return pytestconfig.getoption("--first-seed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed or call.excinfo is not None:
        item.stash[_FAILED] = True
    return report


def native_objects():
    """Counts of native objects that exist, without the zeros; collects only when there are any."""
    native = sys.modules.get("ndverbs._native")
    if native is None:
        return {}
    for attempt in range(3):
        left = {kind: count for kind, count in native._live_objects().items() if count}
        if not left or attempt == 2:
            return left
        gc.collect()
    return {}


@pytest.fixture(autouse=True)
def _no_native_object_is_left(request):
    before = native_objects()
    yield
    # A failure's traceback keeps what its frames name.
    if request.node.stash.get(_FAILED, False):
        return
    request.node.funcargs.clear()  # pytest keeps them a little longer than their fixtures
    left = {
        kind: count - before.get(kind, 0)
        for kind, count in native_objects().items()
        if count != before.get(kind, 0)
    }
    assert not left, f"native objects outlive the test, by kind: {left}"
    if control.is_loaded():
        assert not control.live(), f"handles of the device are left: {control.live()}"


@pytest.fixture
def adapter(provider):
    """Open an adapter; it is closed after the test."""
    import ndverbs as nd

    with nd.Adapter.open(provider) as opened:
        yield opened


@pytest.fixture
def connect_pair(provider):
    """Give the factory ``connect_pair(**options) -> Pair``: two connected ends of this process."""
    from conformance.pair import Pair

    made = []

    def make(**options):
        made.append(Pair(provider, **options))
        return made[-1]

    yield make
    for pair in made:
        pair.close()


@pytest.fixture
def pair(connect_pair):
    """Connect two ends of this process, of one adapter and one protection domain each."""
    return connect_pair()


@pytest.fixture(scope="session")
def peer_process():
    """Start the long-lived second process; every test makes its own end in it."""
    from conformance.far import PeerProcess

    with PeerProcess() as process:
        yield process

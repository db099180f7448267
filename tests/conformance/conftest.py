# SPDX-License-Identifier: Apache-2.0
"""The suite's own: ends in two threads or two processes."""

from functools import partial

import pytest

import ndverbs as nd
from conformance.addresses import addresses_of
from conformance.end import LIMIT, End
from conformance.far import FarProcess, FarThread
from conformance.pair import join, kept_ends
from double import control


class Ends:
    """A near end of the test's own, and a far one."""

    def __init__(self, near, far, host=None):
        self.near = near
        self.far = far
        self.host = host

    def connect(self, **options):
        """Connect, the near end being active; options of `join`."""
        join(self.near, self.far.begin, self.far.listen(self.host), **options)
        wanted = {**options.get("active_options", {}), **options.get("passive_options", {})}
        if self.near.is_direct and not wanted.keys() & {"crc", "peer_to_peer"}:
            assert self.near.connector.transport.startswith("direct")
        return self

    def connect_back(self, *, active_options=None, passive_options=None):
        """Connect, the far end being active."""
        address = self.near.listen(self.host)
        connected = self.far.begin("connect", address, **(active_options or {}))
        self.near.accept(**(passive_options or {}))
        connected.result(LIMIT)
        return self


# Settings in which memory carries the connection: options of both ends. In two processes they are
# in an arena, reached by the kernel's copies, or not at all.
DIRECT = {
    "memory": {"is_direct": True},
    "arena": {"is_direct": True, "has_arena": True},
    "vm": {"is_direct": True},
    "carried": {"is_direct": True, "direct": "no-vm"},
}
IN_PROCESSES = {"processes", "arena", "vm", "carried"}


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.tsan) for name in ("threads", "memory")]
    + ["processes", "arena", "vm", "carried"]
)
def setting(request, provider):
    """Say where the far end is, and what carries the connection."""
    if request.param in DIRECT:
        with nd.Adapter.open(provider) as adapter:
            if "direct" not in adapter.info.features:
                pytest.skip("a device carries its connections itself")
    return request.param


@pytest.fixture
def needs_processes(provider):
    """Say that the test has an end in another process."""
    if control.is_double(provider):
        pytest.skip("the device double connects ends of one process")


@pytest.fixture
def make_ends(request, setting, provider):
    """Give the factory ``make_ends(near={}, far={}, **both) -> Ends``, not connected."""
    far_kind = _far_process(request) if setting in IN_PROCESSES else FarThread
    yield from factory_of_ends(provider, provider, far_kind, **DIRECT.get(setting, {}))


@pytest.fixture
def make_process_ends(request, provider):
    """Give `make_ends` for tests that need a second process."""
    yield from factory_of_ends(provider, provider, _far_process(request))


def _far_process(request):
    request.getfixturevalue("needs_processes")
    return partial(FarProcess, request.getfixturevalue("peer_process"))


def factory_of_ends(near_provider, far_provider, far_kind=FarThread, kind=Ends, **every):
    """Yield the factory that the fixture `make_ends` gives; `every`: options of all its ends."""
    with kept_ends() as made:

        def make(*, near=None, far=None, **both):
            both = {**every, **both}
            made.append(End(near_provider, **both, **(near or {})))
            made.append(far_kind(provider=far_provider, **both, **(far or {})))
            return kind(*made[-2:])

        yield make


@pytest.fixture
def make_end(provider):
    """Give the factory ``make_end(**options) -> End``, each with an adapter of its own."""
    with kept_ends() as made:

        def make(**options):
            made.append(End(provider, **options))
            return made[-1]

        yield make


@pytest.fixture
def idle_ends(make_ends):
    """Make two ends that are not connected."""
    return make_ends()


@pytest.fixture
def ends(make_ends):
    """Make two connected ends, the near one being active."""
    return make_ends().connect()


class SilentServer:
    """A listener that takes requests and never answers them."""

    def __init__(self, provider):
        self._end = End(provider)
        self.address = self._end.listen()
        self._visitors = []

    def expect_a_visitor(self, timeout=LIMIT):
        """Wait until a peer asks for a connection."""
        self._visitors.append(self._end.listener.get_connector(timeout))

    def let_go(self):
        """Close the last visitor's connection."""
        self._visitors.pop().close()

    def drop(self, timeout):
        """Drop a visitor; return whether one came in time."""
        try:
            self.expect_a_visitor(timeout)
        except TimeoutError:
            return False
        self.let_go()
        return True

    def close(self):
        for visitor in self._visitors:
            visitor.close()
        self._visitors.clear()
        self._end.close()


@pytest.fixture
def silent_server(provider):
    """Listen, and never answer."""
    server = SilentServer(provider)
    yield server
    server.close()


@pytest.fixture
def host(provider):
    """Give the address that the provider's ends connect through."""
    return addresses_of(provider).v4


@pytest.fixture(params=["v4", "v6"])
def host_of_family(request, provider):
    """Give an IPv4 address, then an IPv6 address, that the provider's ends connect through."""
    return getattr(addresses_of(provider), request.param)


@pytest.fixture
def needs_fast_registration(provider):
    with nd.Adapter.open(provider) as adapter:
        if "create_fast_register_mr" not in adapter.info.features:
            pytest.skip("no fast registration")


@pytest.fixture
def far_pages(ends):
    """The far end has five pages mapped as "pages", and an empty region "region"."""
    ends.far.map_pages("pages", 5, seed=1)
    ends.far.create_fast_register_mr("region")
    return ends


@pytest.fixture
def needs_atomics(provider):
    _needs_extension(provider, "atomics")


@pytest.fixture
def needs_immediate(provider):
    _needs_extension(provider, "immediate")


def _needs_extension(provider, name):
    with nd.Adapter.open(provider) as adapter:
        if name not in adapter.info.extensions:
            pytest.skip(f"no extension {name}: test_extensions.py has the refusal")

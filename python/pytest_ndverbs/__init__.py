# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin: fixtures for tests of programs that use RDMA.

pytest loads it in every session where ndverbs is installed. So it imports neither ndverbs nor NumPy
before a test asks for one of its fixtures, which is why it is no part of the package. docs/howto.md
"Test with pytest" shows them.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import ndverbs as nd
    from pytest_ndverbs.pair import ConnectionPair, RdmaPair
    from pytest_ndverbs.process import ProcessKeeper, RdmaProcess

_CAPTURE = pytest.StashKey[Path]()
_FAULTS = pytest.StashKey["nd.Faults"]()
_HAS_FAILED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    group = parser.getgroup("rdma", "RDMA (ndverbs)")
    group.addoption(
        "--rdma-adapter",
        metavar="NAME",
        help="what nd.Adapter.open() opens in tests with a fixture of ndverbs: NDVERBS_ADAPTER",
    )
    group.addoption(
        "--rdma-capture",
        choices=("failed", "off"),
        default="failed",
        help="failed (default): connections are captured, which keeps them from memory, and a "
        "failed test shows its last frames and keeps its capture; off: they are not",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers",
        "rdma_faults(seed=None, direct=False): what the fixture rdma_faults is made with; without "
        "a seed it comes from the test's name",
    )


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say what adapter was named, and what it lacks that another one of this build has."""
    name = config.getoption("rdma_adapter")
    if name is None:
        return []
    import ndverbs as nd

    try:
        with nd.Adapter.open(name) as adapter:
            info = adapter.info
    except nd.RdmaError as error:
        raise pytest.UsageError(f"--rdma-adapter {name}: {error}") from error
    known = {feature for one in nd.adapters() for feature in one.features | one.extensions}
    lacks = sorted(known - info.features - info.extensions)
    return [
        f"rdma adapter: {info.name}, {info.rdma_technology} by {info.provider}",
        *([f"rdma adapter lacks: {', '.join(lacks)}"] if lacks else []),
    ]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what a failed test had to do with, while its adapters are still open."""
    report = yield
    if report.failed and (_CAPTURE in item.stash or _FAULTS in item.stash):
        from pytest_ndverbs import wire

        item.stash[_HAS_FAILED] = True
        if _FAULTS in item.stash:
            struck = item.stash[_FAULTS].struck or ["none"]
            report.sections.append(("Faults that struck", "\n".join(struck)))
        if _CAPTURE in item.stash:
            report.sections.append(("Frames on the wire", wire.last_frames(item.stash[_CAPTURE])))
    return report


@pytest.fixture
def _rdma_environment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """Let adapters that the test's program opens be the one of the option, and captured."""
    stash = request.node.stash
    with pytest.MonkeyPatch.context() as patch:
        if (name := request.config.getoption("rdma_adapter")) is not None:
            patch.setenv("NDVERBS_ADAPTER", name)
        if request.config.getoption("rdma_capture") == "failed":
            stash[_CAPTURE] = tmp_path / "rdma-capture"
            stash[_CAPTURE].mkdir()
            patch.setenv("NDVERBS_CAPTURE", str(stash[_CAPTURE]))
        yield
    if _CAPTURE in stash and not stash.get(_HAS_FAILED, False):
        shutil.rmtree(stash[_CAPTURE])


@pytest.fixture
def rdma_faults(request: pytest.FixtureRequest) -> Iterator[nd.Faults]:
    """Give the faults of the test's adapter: `ndverbs.Faults`, none of which strikes yet.

    Another adapter of the test has them with ``Adapter.open(faults=rdma_faults)``.
    """
    import ndverbs as nd

    marker = request.node.get_closest_marker("rdma_faults")
    options = dict(marker.kwargs) if marker else {}
    if options.get("seed") is None:
        options["seed"] = zlib.crc32(request.node.nodeid.encode())
    faults = request.node.stash[_FAULTS] = nd.Faults(**options)
    yield faults
    faults.resume()
    del request.node.stash[_FAULTS]


@pytest.fixture
def rdma_adapter(request: pytest.FixtureRequest, _rdma_environment: None) -> Iterator[nd.Adapter]:
    """Open the adapter that the option names; it has the faults of `rdma_faults`, if the test has.

    The test is skipped where it has faults and the adapter takes none.
    """
    import ndverbs as nd

    faults = None
    if "rdma_faults" in request.fixturenames:
        faults = request.getfixturevalue("rdma_faults")
        with nd.Adapter.open() as probe:
            if "faults" not in probe.info.features:
                pytest.skip(f"the adapter {probe.info.name} has no faults on demand")
    with nd.Adapter.open(faults=faults) as adapter:
        yield adapter


@pytest.fixture
def rdma_pair(rdma_adapter: nd.Adapter) -> Iterator[RdmaPair]:
    """Connect two queue pairs of the adapter, each with memory: see `pair.RdmaPair`."""
    from pytest_ndverbs.pair import RdmaPair

    pair = RdmaPair(rdma_adapter)
    yield pair
    pair.close()


@pytest.fixture
def rdma_connection_pair(rdma_adapter: nd.Adapter) -> Iterator[ConnectionPair]:
    """Connect two `ndverbs.Connection` of the adapter; they are aborted behind the test."""
    import ndverbs as nd
    from pytest_ndverbs.pair import LIMIT, ConnectionPair

    with nd.listen((rdma_adapter.info.addresses[0], 0), adapter=rdma_adapter) as server:
        active = nd.connect(server.address, adapter=rdma_adapter, timeout=LIMIT)
        pair = ConnectionPair(active, server.accept(LIMIT))
    yield pair
    for connection in pair:
        connection.abort()


@pytest.fixture(scope="session")
def _rdma_process_keeper() -> Iterator[ProcessKeeper]:
    from pytest_ndverbs.process import ProcessKeeper

    keeper = ProcessKeeper()
    yield keeper
    keeper.close()


@pytest.fixture
def rdma_process(
    _rdma_process_keeper: ProcessKeeper, _rdma_environment: None
) -> Iterator[RdmaProcess]:
    """Give a peer process, which calls functions of the tests: see `process.RdmaProcess`.

    It is the same for all tests, until one of them kills it or leaves a call unfinished.
    """
    process = _rdma_process_keeper.get()
    yield process
    _rdma_process_keeper.put_back(process)


@pytest.fixture
def rdma_cluster(_rdma_environment: None) -> Iterator[Any]:
    """Start a Dask cluster of two worker processes over ``ndverbs://``, and give its client.

    The test is skipped where ``ndverbs[dask]`` is not installed.
    """
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, protocol="ndverbs", dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client

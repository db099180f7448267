# SPDX-License-Identifier: Apache-2.0
"""docs/: what is marked runs, what is not is Python at least, and links lead somewhere."""

import ast
import inspect
import re
import shlex
import socket
import subprocess
import sys

import numpy as np
import pytest

from docs.markdown_examples import (
    PAGE_PROGRAM,
    PAGES,
    ROOT,
    RUN_LIMIT_S,
    assert_prints,
    blocks,
    clean_environment,
    copy,
    programs,
    run,
    served,
)

HOWTO = ROOT / "docs" / "howto.md"


def name_of(page):
    return page.name


@pytest.mark.parametrize(
    "page", [page for page in PAGES[1:] if PAGE_PROGRAM in programs(page)], ids=name_of
)
def test_examples_of_a_page_run_one_after_the_other(page, tmp_path):
    program = programs(page)[PAGE_PROGRAM]
    assert_prints(program, run(tmp_path, program))


def test_two_processes_run_as_pasted(tmp_path):
    # The one change to what a reader pastes: the port is one that is free just now.
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    texts = {
        name: text.replace("127.0.0.1:7471", f"127.0.0.1:{port}")
        for name, text in programs(HOWTO).items()
        if name in ("server.py", "client.py")
    }
    for name, text in texts.items():
        assert str(port) in text
        (tmp_path / name).write_text(text)

    def start(name):
        return subprocess.Popen(
            [sys.executable, "-W", "error", name],
            cwd=tmp_path,
            env=clean_environment(),
            stdout=subprocess.PIPE,
            text=True,
        )

    server = start("server.py")
    try:
        assert server.stdout.readline() == "listening\n"
        client = start("client.py")
        client_said, _ = client.communicate(timeout=RUN_LIMIT_S)
        server_said, _ = server.communicate(timeout=RUN_LIMIT_S)
    finally:
        server.kill()
        server.communicate()
    assert (client.returncode, server.returncode) == (0, 0)
    assert_prints(texts["client.py"], client_said)
    assert_prints(texts["server.py"], server_said)


def test_copies_go_as_pasted(tmp_path):
    (text,) = (block.code for block in blocks(HOWTO) if "ndverbs serve" in block.code)
    serve, *copies = (shlex.split(line, comments=True)[1:] for line in text.splitlines())
    names = ["a.bin", "b.bin", "measurements.npy", "results/c.bin"]
    (tmp_path / "results").mkdir()
    (tmp_path / "received").mkdir()
    for name in names:
        with (tmp_path / name).open("wb") as file:
            np.save(file, np.arange(10))

    with served(tmp_path, serve[:-1]) as port:
        for words in copies:
            copy(tmp_path, words, port)

    assert serve[-1] == "&"
    assert np.array_equal(np.load(tmp_path / "copy.npy"), np.arange(10))
    received = tmp_path / "received"
    assert {str(path.relative_to(received)) for path in received.rglob("*.*")} == {
        "measurements.npy",
        "results/a.bin",
        "results/b.bin",
        "results/c.bin",
    }


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_that_is_not_run_is_python(page):
    for block in blocks(page):
        if block.language == "python":
            ast.parse(block.code)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


def anchors(page):
    """Return the anchors that hosts of Markdown make from headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_reference_names_all_that_is_public():
    import ndverbs as nd

    page = (ROOT / "docs" / "reference.md").read_text()
    assert {name for name in nd.__all__ if not re.search(rf"\b{name}\b", page)} == {"__version__"}


@pytest.mark.parametrize(
    "name",
    [
        "Adapter",
        "ProtectionDomain",
        "MemoryRegion",
        "CompletionQueue",
        "QueuePair",
        "Connector",
        "Listener",
    ],
)
def test_reference_names_all_methods(name):
    import ndverbs as nd

    page = (ROOT / "docs" / "reference.md").read_text()
    methods = {method for method in dir(getattr(nd, name)) if not method.startswith("_")}
    obvious = {"close", "closed", "address", "nbytes", "access", "array", "open", "info"}
    assert {m for m in methods - obvious if not re.search(rf"\b{m}\b", page)} == set()


def test_reference_names_all_that_open_takes():
    import ndverbs as nd

    page = (ROOT / "docs" / "reference.md").read_text()
    (written,) = re.findall(r"nd\.Adapter\.open\((.+?)\)`", page)
    taken = inspect.signature(nd.Adapter.open).parameters.values()
    defaults = {p.name: p.default for p in taken if p.kind is p.KEYWORD_ONLY}
    assert eval(f"dict({written.partition(', ')[2]})", {}) == defaults


def test_reference_tells_the_access_values():
    import ndverbs as nd

    page = (ROOT / "docs" / "reference.md").read_text()
    for name, value in re.findall(r"`([A-Z_]+)` = (\d+)", page):
        assert nd.Access[name] == int(value)

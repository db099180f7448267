# SPDX-License-Identifier: Apache-2.0
"""notebooks/: each runs on `soft` and shows what its text says; none stores output."""

import re

import nbformat
import pytest
from nbclient import NotebookClient

from docs.markdown_examples import ROOT, assert_prints, clean_environment, programs

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FIRST_WRITE = ROOT / "notebooks" / "01_first_write.ipynb"
SOCKETS = ROOT / "notebooks" / "02_sockets.ipynb"
QUEUE_PAIRS = ROOT / "notebooks" / "03_queue_pairs.ipynb"
WINDOWS = ROOT / "notebooks" / "04_windows.ipynb"
MEASURING = ROOT / "notebooks" / "05_measuring.ipynb"
ON_HARDWARE = ROOT / "notebooks" / "06_on_hardware.ipynb"
KEY_VALUE_STORE = ROOT / "notebooks" / "07_key_value_store.ipynb"
DASK = ROOT / "notebooks" / "08_dask.ipynb"
# Of one cell; only means failure.
CELL_LIMIT_S = 30

pytestmark = pytest.mark.slow


def executed(notebook, folder):
    """Run a notebook in a kernel of its own; a cell that raises raises here."""
    client = NotebookClient(
        notebook, timeout=CELL_LIMIT_S, resources={"metadata": {"path": str(folder)}}
    )
    return client.execute(env=clean_environment())


def outputs(cell):
    return [output for output in cell.outputs if output.output_type != "stream"]


def text_of(cell):
    """Return what a cell printed and what its last expression showed."""
    texts = []
    for output in cell.outputs:
        assert output.output_type != "error"
        if output.output_type == "stream":
            # matplotlib tells there, at its first use, that it looks for fonts.
            texts.append(output.text if output.name == "stdout" else "")
        else:
            texts.append(output.data.get("text/plain", ""))
    return "".join(texts)


def texts_of(notebook):
    return {cell.id: text_of(cell) for cell in notebook.cells if cell.cell_type == "code"}


@pytest.fixture(scope="module")
def first_write(tmp_path_factory):
    notebook = nbformat.read(FIRST_WRITE, as_version=4)
    return executed(notebook, tmp_path_factory.mktemp("notebook"))


def test_first_write_shows_what_its_text_says(first_write):
    texts = texts_of(first_write)
    assert texts["open"].startswith("iWARP in user space\n")
    assert texts["register"].startswith("RemoteBuffer(")
    assert "token" not in texts["register"]
    assert texts["pinned"].startswith("refused: cannot resize an array")
    assert texts["connect"] == "connected connected\n"
    assert "<Result WRITE SUCCESS, request_context='two rows'>" in texts["write"]
    assert texts["read"] == "READ SUCCESS - equal: True\nand in the server's table: True\n"
    assert texts["send"] == (
        "RECEIVE 17 b'the table is full'\nthe silent Write has arrived: True\n"
    )
    assert texts["send-own"] == "[('SEND', 'SUCCESS')]"
    assert texts["close"] == "True"


def test_first_write_shows_refusals(first_write):
    texts = texts_of(first_write)
    assert texts["refused-here"].startswith("RdmaValueError - 32768 local bytes exceed")
    assert texts["refused-write"] == (
        "WRITE REMOTE_RESOURCES - peer terminated the stream: "
        "DDP tagged buffer error: invalid STag (1/1/00)\n"
        "RECEIVE CANCELLED - peer terminated the stream: "
        "DDP tagged buffer error: invalid STag (1/1/00)\n"
        "client: error - table untouched: True\n"
    )
    assert texts["refused-read"] == (
        "read completed with REMOTE_RESOURCES (peer terminated the stream: "
        "RDMAP remote protection error: invalid STag (0/1/00)); "
        "the peer's region must be registered still, with this right and size\n"
    )


def test_first_write_plots(first_write):
    (plot,) = [cell for cell in first_write.cells if cell.id == "plot"]
    assert any("image/png" in output.data for output in outputs(plot))


def test_first_write_tells_its_figures_without_matplotlib(tmp_path):
    notebook = nbformat.read(FIRST_WRITE, as_version=4)
    notebook.cells.insert(
        0, nbformat.v4.new_code_cell("import sys\n\nsys.modules['matplotlib'] = None")
    )
    lines = texts_of(executed(notebook, tmp_path))["plot"].splitlines()
    assert [line.split()[0] for line in lines] == ["8", "64", "512", "4096", "16384", "65536"]
    assert all(line.endswith("µs") for line in lines)


def test_sockets_show_what_the_text_says(tmp_path):
    texts = texts_of(executed(nbformat.read(SOCKETS, as_version=4), tmp_path))
    assert texts["pair"] == "socket b'hello'\nSocket b'hello'\n"
    assert "'RDMA':" in texts["time"]
    assert texts["end"] == "b''\n"
    assert texts["indications"] == "[1 2 3 4 5 6 7 8 9] False\n"


def words_of(text):
    """Return the first two words of each row of a table: of results, type and status."""
    return [" ".join(line.split()[:2]) for line in text.splitlines()]


@pytest.fixture(scope="module")
def queue_pairs(tmp_path_factory):
    notebook = nbformat.read(QUEUE_PAIRS, as_version=4)
    return executed(notebook, tmp_path_factory.mktemp("notebook"))


def test_queue_pairs_show_their_states(queue_pairs):
    texts = texts_of(queue_pairs)
    assert texts["make"].startswith("<QueuePair idle, initiator depth 4")
    assert texts["idle"].startswith("CONNECTION_INVALID - send: the queue pair is not connected")
    connected = ["QueuePair connected"] * 2 + ["Connector connected"] * 2
    assert words_of(texts["connect"])[1:] == connected
    assert texts["broken"].startswith("error error\n")
    assert texts["over"].startswith("RdmaConnectionResetError - send: ")
    ended = ["QueuePair error"] * 2 + ["Connector disconnected"] * 2
    assert words_of(texts["after"])[1:] == ended
    assert all(line.endswith(" closed") for line in texts["close"].splitlines())


def test_queue_pairs_show_how_requests_end(queue_pairs):
    texts = texts_of(queue_pairs)
    assert words_of(texts["post"])[1:] == ["WRITE SUCCESS", "SEND SUCCESS", "RECEIVE SUCCESS"]
    assert words_of(texts["silent"])[1:] == ["RECEIVE SUCCESS"]
    assert texts["full"].startswith("NO_MORE_ENTRIES - write: the initiator queue is full (4 ")
    assert words_of(texts["full"])[2:] == ["WRITE SUCCESS"] * 4
    assert texts["refused"].startswith("still connected\n")
    assert (texts["refused"].count("RdmaValueError"), texts["refused"].count("RdmaBuffer")) == (
        2,
        2,
    )
    cancelled = "RECEIVE CANCELLED"
    broken = ["RECEIVE BUFFER_OVERFLOW", cancelled, cancelled, "SEND SUCCESS"]
    assert sorted(words_of(texts["broken"])[2:]) == broken
    assert words_of(texts["over"])[-1] == cancelled
    assert words_of(texts["flush"])[1:] == [cancelled, cancelled]
    assert texts["disconnect"].startswith("the server leaves; the client is connected and has []\n")
    assert words_of(texts["disconnect"])[-1] == cancelled


def test_queue_pairs_show_tables_as_pages(queue_pairs):
    code = [cell for cell in queue_pairs.cells if cell.cell_type == "code"]
    shown = {cell.id: output.data for cell in code for output in outputs(cell)}

    assert {"open", "make", "connect", "post", "refused", "after", "close"} <= set(shown)
    assert all(data["text/html"].startswith("<table>") for data in shown.values())
    assert ">idle</td>" in shown["make"]["text/html"]


def test_windows_show_what_the_text_says(tmp_path):
    texts = texts_of(executed(nbformat.read(WINDOWS, as_version=4), tmp_path))
    assert texts["bind"] == "<Result BIND SUCCESS, request_context='rows 2 and 3'>"
    assert "nbytes=64" in texts["bound"]
    assert "token" not in texts["bound"]
    assert texts["use"].startswith("SUCCESS\nSUCCESS\n")
    assert texts["busy"].startswith("DEVICE_BUSY - deregister: 1 memory windows are bound")
    assert texts["peer"].startswith(
        "it is the window's token: True\n<Result RECEIVE_AND_INVALIDATE SUCCESS"
    )
    assert texts["again"].startswith("another token: True\n")
    assert texts["own"] == "<Result INVALIDATE SUCCESS, request_context='row 0'>"
    assert texts["dead"].startswith("error error\n")
    assert words_of(texts["dead"])[2:] == ["READ REMOTE_RESOURCES", "RECEIVE CANCELLED"]
    answers = texts["answers"].splitlines()
    assert [" ".join(line.partition(": ")[0].split()[-2:]) for line in answers] == [
        "WRITE REMOTE_RESOURCES",
        "WRITE REMOTE_RESOURCES",
        "READ REMOTE_RESOURCES",
        "READ REMOTE_RESOURCES",
    ]
    assert [line.rpartition(" (")[0].rpartition(": ")[2] for line in answers] == [
        "invalid STag",
        "base or bounds violation",
        "access rights violation",
        "STag not associated with the stream",
    ]
    assert texts["close"].startswith("rows changed: [2 3]\n<MemoryRegion not registered>\n")


def test_measuring_plots_and_tells_its_figures_without_matplotlib(tmp_path):
    notebook = nbformat.read(MEASURING, as_version=4)
    (place,) = [i for i, cell in enumerate(notebook.cells) if cell.id == "plot"]
    without = (
        "sys.modules['matplotlib'] = None\n"
        f"{notebook.cells[place].source}\n"
        "del sys.modules['matplotlib']"
    )
    notebook.cells.insert(place, nbformat.v4.new_code_cell(without, id="plot-as-text"))

    notebook = executed(notebook, tmp_path)

    texts = texts_of(notebook)
    assert texts["one"].startswith("send latency 8 B wait median ")
    assert texts["tcp"] == "{'tcp'}"
    lines = [line.split() for line in texts["plot-as-text"].splitlines()]
    sizes = ["64", "4096", "65536", "1048576"]
    assert [line[:2] for line in lines] == [[o, s] for o in ("memory", "TCP") for s in sizes]
    assert all(float(line[3]) > 0 and float(line[5]) > 0 for line in lines)
    (plot,) = [cell for cell in notebook.cells if cell.id == "plot"]
    assert any("image/png" in output.data for output in outputs(plot))


def test_on_hardware_shows_what_the_text_says(tmp_path):
    # Where there is a device, too, this is the run on soft.
    notebook = nbformat.read(ON_HARDWARE, as_version=4)
    choose = nbformat.v4.new_code_cell("os.environ['NDVERBS_ADAPTER'] = 'soft'")
    (place,) = [i for i, cell in enumerate(notebook.cells) if cell.id == "choose"]
    notebook.cells.insert(place, choose)

    texts = texts_of(executed(notebook, tmp_path))

    assert "iWARP" in texts["open"]
    assert "soft: " in texts["doctor"]
    assert texts["choose"] == "soft speaks iWARP\n"
    assert "4,294,967,295" in texts["limits"]
    assert texts["connect"].startswith("over direct\n")
    assert texts["write"].startswith("equal: True\n")
    assert words_of(texts["write"])[2:] == ["RECEIVE SUCCESS", "WRITE SUCCESS", "READ SUCCESS"]
    assert texts["refused"] == (
        "error error - untouched: True\ncancelled: ['still posted', 'for the server']\n"
    )
    assert "send latency 8 B wait median" in texts["bench"]
    assert words_of(texts["close"]) == ["Adapter closed", "QueuePair closed"]


def test_connection_examples_run_in_a_cell_each(tmp_path):
    of_page = programs(ROOT / "docs" / "howto.md")
    in_a_loop = of_page["connection_asyncio.py"].replace("asyncio.run(main())", "await main()")
    examples = [of_page["connection.py"], in_a_loop]
    notebook = nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, examples)])
    for example, cell in zip(examples, executed(notebook, tmp_path).cells, strict=True):
        assert_prints(example, text_of(cell))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_notebook_stores_output(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.nbformat_minor >= 5
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    for cell in notebook.cells:
        assert not cell.metadata
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_key_value_store_shows_what_its_text_says(tmp_path):
    texts = texts_of(executed(nbformat.read(KEY_VALUE_STORE, as_version=4), tmp_path))
    assert texts["open"].startswith("<Share 127.0.0.1:")
    assert texts["client"] == "1700 -1 None\n"
    assert "[4242," in texts["owner"].replace(" ", "")
    assert texts["many"] == "1002 keys, 2700\n"
    assert "read_many" in texts["trace"]
    assert texts["end"].startswith("refused: ")


def test_dask_shows_what_its_text_says(tmp_path):
    texts = texts_of(executed(nbformat.read(DASK, as_version=4), tmp_path))
    assert texts["start"] == "ndverbs://127.0.0.1 ndverbs://127.0.0.1\n"
    total, received = texts["move"].splitlines()
    assert total == "4194304.0"
    assert "32" in received
    assert " 32 MiB taken" in texts["comms"]
    holding, kept = re.fullmatch(r"(\d+) MiB, then (\d+) MiB kept\n", texts["pool"]).groups()
    assert (int(holding), int(kept)) == (0, 32)

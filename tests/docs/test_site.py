# SPDX-License-Identifier: Apache-2.0
"""The documentation site: every page is in its contents, and its reference has all names."""

import fnmatch
import re
import runpy
import sys
import types

import pytest

import ndverbs as nd
from docs.markdown_examples import PAGES, ROOT

DOCS = ROOT / "docs"
INDEX = DOCS / "index.md"
REFERENCE = sorted((DOCS / "api").glob("*.rst"))
SECTIONS = ["Tutorials", "How-to", "Concepts", "Reference", "Performance", "Hardware"]


def contents():
    """Return the documents that the index names, as files without their endings."""
    text = INDEX.read_text()
    lines = "\n".join(re.findall(r"^:::\{toctree\}\n(.*?)^:::$", text, re.S | re.M)).splitlines()
    entries = [line for line in lines if line and not line.startswith(":")]
    return [(DOCS / re.sub(r".*<(.*)>", r"\1", entry)).resolve() for entry in entries]


def test_the_contents_name_every_page_once():
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    documents = {page.with_suffix("") for page in [*PAGES, *notebooks, *REFERENCE]}

    assert sorted(contents()) == sorted(documents - {INDEX.with_suffix("")})


def test_the_contents_have_their_sections():
    captions = re.findall(r"^:caption: (.*)$", INDEX.read_text(), re.MULTILINE)

    assert captions[: len(SECTIONS)] == SECTIONS


@pytest.fixture
def settings(monkeypatch):
    """Read conf.py as Sphinx does, on a machine that need not have it."""
    application = types.ModuleType("sphinx.application")
    application.Sphinx = object
    monkeypatch.setitem(sys.modules, "sphinx", types.ModuleType("sphinx"))
    monkeypatch.setitem(sys.modules, "sphinx.application", application)
    return runpy.run_path(str(DOCS / "conf.py"))


def test_the_settings_take_in_every_page_and_run_the_notebooks(settings):
    def is_taken(page, kind):
        return any(fnmatch.fnmatch(page, pattern) for pattern in settings[f"{kind}_patterns"])

    pages = [str(page.relative_to(ROOT)) for page in [*PAGES, *REFERENCE]]

    assert [page for page in pages if not is_taken(page, "include")] == []
    assert [page for page in pages if is_taken(page, "exclude")] == []
    assert settings["root_doc"] == str(INDEX.relative_to(ROOT).with_suffix(""))
    assert settings["release"] == nd.__version__
    assert settings["nb_execution_mode"] == "force"
    assert settings["nb_execution_raise_on_error"]


def test_make_docs_takes_a_warning_for_an_error():
    recipe = (ROOT / "Makefile").read_text().partition("\ndocs:")[2].partition("\n\n")[0]

    assert "-m sphinx -W -E " in recipe  # -E: all is read again, and all notebooks are run
    assert " -c docs . " in recipe


def test_the_reference_has_all_that_is_public():
    text = "".join(page.read_text() for page in REFERENCE)
    named = re.findall(r"^\.\. auto(?:class|exception|function|data):: ([\w.]+)$", text, re.M)
    modules = re.findall(r"^\.\. automodule:: ndverbs\.(\w+)$", text, re.MULTILINE)

    assert len(named) == len(set(named))
    assert {*named, *modules} >= set(nd.__all__) - {"__version__"}

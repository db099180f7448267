# SPDX-License-Identifier: Apache-2.0
"""The documentation site, as Sphinx reads it: `make docs`.

The source folder is the project's root, so that pages stay where they are and a link between two
of them leads to the same place on the site, in a clone and on a host of repositories. What is in
docs/index.md is on the site; tests/docs/test_site.py holds that nothing is left out.
"""

import contextlib
import enum
import importlib.metadata
from pathlib import Path

from sphinx.application import Sphinx

import ndverbs as nd
from ndverbs import _native

project = "ndverbs"
release = importlib.metadata.version(project)
html_title = f"{project} {release}"
html_theme = "furo"
html_show_copyright = False
html_copy_source = False
root_doc = "docs/index"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
include_patterns = ["*.md", "docs/**", "notebooks/*.ipynb"]
# A folder that is named here is not even looked into.
exclude_patterns = [".*", "build", "dist", "**/.ipynb_checkpoints"]

# Anchors of headings, down to the depth that links use.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

# Notebooks store no output: what the site shows, its build has seen.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True

# One documentation source: the pages that the package itself shows.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": True}
napoleon_google_docstring = False
napoleon_use_ivar = True
# Types are words of English, such as "array": Sphinx would take them for names, and link some.
napoleon_use_param = False
napoleon_use_rtype = False


def setup(app: Sphinx) -> None:
    """Add what Sphinx does not find out by itself."""
    app.connect("autodoc-process-docstring", _find_page)
    app.connect("build-finished", _lead_on)


def _find_page(
    app: Sphinx, what: str, name: str, found: object, options: object, lines: list[str]
) -> None:
    """Give values their own pages: for Sphinx they have those of their types, or none."""
    if what == "data":
        lines[:] = _page(name)
    elif isinstance(found, enum.EnumType) and found.__module__ == "ndverbs._native":
        for member in found:
            page = _page(f"{name}.{member.name}")
            if isinstance(member, nd.Status):
                page = [_native._status_meanings()[member]]
            value = f"{member:#x}" if member > 9 else f"{member:d}"
            lines += [f".. attribute:: {member.name}", f"   :value: {value}", ""]
            lines += [*(f"   {line}" for line in page), ""]


def _page(name: str) -> list[str]:
    """Return what the stub says of a name, where it does."""
    with contextlib.suppress(KeyError):
        return _native._page(name.removeprefix("ndverbs.")).splitlines()
    return []


def _lead_on(app: Sphinx, failure: Exception | None) -> None:
    if failure is None and app.builder.name == "html":
        first = f'<meta http-equiv="refresh" content="0; url={root_doc}.html">\n'
        (Path(app.outdir) / "index.html").write_text(first)

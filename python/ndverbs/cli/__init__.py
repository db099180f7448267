# SPDX-License-Identifier: Apache-2.0
"""The command line: ``ndverbs`` and ``python -m ndverbs``. Programs; `main` alone is API."""

from ndverbs.cli._main import main

__all__ = ["main"]

# SPDX-License-Identifier: Apache-2.0
"""The package's loggers: one per room below "ndverbs", silent until a program wants them.

``NDVERBS_LOG=debug`` (or another level of `logging`) writes them to standard error, for programs
and the command line alike. A program that sets up its own logging has them there, and there only.
"""

from __future__ import annotations

import logging
import os
from typing import TextIO


class _UntilSetUp(logging.StreamHandler[TextIO]):
    """Writes while the program has no logging of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        others = logging.getLogger().handlers + logging.getLogger("ndverbs").handlers
        if all(isinstance(one, logging.NullHandler) or one is self for one in others):
            super().emit(record)


def set_up() -> None:
    """Add what keeps the package silent by default, and what the environment asks for."""
    logger = logging.getLogger("ndverbs")
    logger.addHandler(logging.NullHandler())
    wanted = os.environ.get("NDVERBS_LOG", "")
    if not wanted:
        return
    level = logging.getLevelNamesMapping().get(wanted.upper())
    handler = _UntilSetUp()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s: %(message)s"))
    logger.addHandler(handler)
    if level is None:
        logger.warning("NDVERBS_LOG=%s is no level of logging; try debug or warning", wanted)
    else:
        logger.setLevel(level)

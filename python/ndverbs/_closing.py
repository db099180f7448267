# SPDX-License-Identifier: Apache-2.0
"""The end of a with statement, for classes that have `close`."""

from __future__ import annotations

import abc
from typing import Self


class Closing(abc.ABC):
    """A context manager that gives the object and closes it at the end."""

    def __enter__(self) -> Self:
        """Return it; it is closed at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    @abc.abstractmethod
    def close(self) -> None:
        """End it; once more does nothing."""

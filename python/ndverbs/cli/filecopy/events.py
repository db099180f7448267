# SPDX-License-Identifier: Apache-2.0
"""What happens at a copy server, for its log: as a line for an operator, and as JSON."""

from __future__ import annotations

from typing import NamedTuple


class Event(NamedTuple):
    """One thing that happened.

    Attributes
    ----------
    kind
        "stored", "sent", "listed", "made", "waiting", "refused" or "failed".
    peer
        Address of the client.
    text
        What happened, in words.
    name
        Of the file or directory, below the served one.
    size
        Of the file, in bytes.
    seconds
        How long it took.
    """

    kind: str
    peer: str
    text: str
    name: str | None = None
    size: int | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        """Return it for reading."""
        took = "" if self.seconds is None else f" in {self.seconds:.2f} s"
        return f"{self.peer}: {self.text}{took}"

    def as_json(self) -> dict[str, object]:
        """Return it for programs, without what is not known."""
        names = {"kind": "event", "size": "bytes"}
        fields = self._asdict().items()
        return {names.get(name, name): value for name, value in fields if value is not None}

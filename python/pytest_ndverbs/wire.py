# SPDX-License-Identifier: Apache-2.0
"""What a failed test shows of its connections."""

from __future__ import annotations

from collections import deque
from pathlib import Path

from ndverbs import _captures
from ndverbs.cli.capture.merging import merge

SHOWN = 20


def last_frames(folder: Path) -> str:
    """Return the last frames of the captures in a folder, in lines, and where the capture is."""
    parts = sorted(folder.glob("*.pcap"))
    if not parts:
        return "no adapter that captures was opened"
    whole = folder.with_suffix(".pcapng")
    whole.unlink(missing_ok=True)
    merge(parts, whole)
    count, last = 0, deque[str](maxlen=SHOWN)
    with open(whole, "rb") as file:
        try:
            for frame in _captures.frames(file):
                count += 1
                last.append(_captures.line(frame))
        except _captures.CaptureError as error:
            last.append(f"the capture {error}")
    skipped = [f"... {count - SHOWN} frames before"] if count > SHOWN else []
    return "\n".join([*skipped, *(last or ["none"]), f"the capture: {whole}"])

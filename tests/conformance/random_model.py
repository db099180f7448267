# SPDX-License-Identifier: Apache-2.0
"""The model of test_random_sequences.py: what memories hold, what completion queues owe."""

from collections import deque

import numpy as np

from conformance.end import PAGE, pattern

SIZE = 200_000
DEPTH = 16

# Pages that fast_register maps, beside the memory that is registered for good.
PAGES = 5

# 64-bit words that the peer works on, and places for their old values.
WORDS = 8
TOP = 2**64 - 1


def other(end):
    return "far" if end == "near" else "near"


def clipped(spans):
    """The spans inside the memory, none of them over another: order would matter there."""
    taken = []
    for offset, length in spans:
        offset = min(offset, SIZE)
        span = (offset, min(length, SIZE - offset))
        if all(span[0] + span[1] <= other[0] or other[0] + other[1] <= span[0] for other in taken):
            taken.append(span)
    return taken


class Model:
    """Both memories, and the completions that each queue owes."""

    def __init__(self):
        self.memory = {
            "near": bytearray(pattern(SIZE, 1)),
            "far": bytearray(pattern(SIZE, 2)),
        }
        self.pages = {end: np.zeros(PAGES * PAGE, np.uint8) for end in ("near", "far")}
        # What is valid: the order of the pages and the first byte's offset; the window's range.
        self.region = {"near": None, "far": None}
        self.window = {"near": None, "far": None}
        # Memory that comes and goes, and words for atomics with their old values.
        self.extra = {"near": None, "far": None}
        self.words = {"near": [0] * WORDS, "far": [0] * WORDS}
        self.old = {"near": [0] * WORDS, "far": [0] * WORDS}
        self.tokens = set()
        self.initiator = {"near": deque(), "far": deque()}
        self.receive = {"near": deque(), "far": deque()}

    def gather(self, end, spans):
        return b"".join(bytes(self.memory[end][at : at + size]) for at, size in spans)

    def mapped(self, end, offset, length):
        """Positions in the pages of a range of the region."""
        order, first = self.region[end]
        at = np.arange(first + offset, first + offset + length)
        return np.array(order)[at // PAGE] * PAGE + at % PAGE

    def scatter(self, end, spans, data):
        done = 0
        for at, size in spans:
            piece = data[done : done + size]
            self.memory[end][at : at + len(piece)] = piece
            done += len(piece)

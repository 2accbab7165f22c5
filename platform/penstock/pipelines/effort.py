"""How much one decision of a run may look at: it is made while nobody else can write, and graphs come from strangers.

An operation is about a microsecond: one part of an expression that is looked at, or what an operator does with so many
characters or elements.
"""

from __future__ import annotations

import sys
from typing import Any

from penstock.errors import TooMuchWork

#: Most operations of one decision.
MAX_OPERATIONS = 100_000
#: What it takes more to ask what an expression waits for, and to look at a choice.
ASKED, CHOSEN = 2, 3
#: Names of steps that are looked up in the time of one part.
NAMES = 8
#: Elements of lists and objects, characters, and bits of a number that are as much work as one part.
ELEMENTS, CHARACTERS, BITS = 32, 1024, 256

_FLAT = frozenset({int, float, bool, type(None)})


class Effort:
    """Operations so far; raises ``TooMuchWork`` beyond ``most``. ``None`` counts without an end."""

    __slots__ = ("most", "spent")

    def __init__(self, most: int | None = MAX_OPERATIONS) -> None:
        self.spent = 0
        self.most = most

    def spend(self, operations: int) -> None:
        """So many more."""
        self.spent += operations
        if self.most is not None and self.spent > self.most:
            raise TooMuchWork(
                f"conditions and values of this run take more than {self.most:,} operations: compute them in a step"
            )

    def compare(self, left: Any, right: Any) -> None:
        """What it takes to compare these two; counted before it is done."""
        if isinstance(left, str):
            if isinstance(right, str):
                self.spend(min(len(left), len(right)) // CHARACTERS)
        elif isinstance(left, list | dict) and isinstance(right, list | dict):
            self.walk(left)

    def walk(self, value: Any, *, most: int = sys.maxsize) -> int:
        """What it takes to look at all of a value; how many characters and elements it has, counted to ``most``."""
        size = unpaid = 0
        waiting = [value]
        while waiting and size <= most:
            here = waiting.pop()
            if isinstance(here, str):
                size += len(here)
                unpaid += len(here) * ELEMENTS // CHARACTERS
            elif isinstance(here, dict):
                size += len(here) + sum(map(len, here))
                unpaid += len(here)
                if not _FLAT.issuperset(map(type, here.values())):
                    waiting += here.values()
            elif isinstance(here, list):
                size += len(here)
                unpaid += len(here)
                if not _FLAT.issuperset(map(type, here)):
                    waiting += here
            if unpaid >= ELEMENTS:  # before what it holds: one value may stand in it a million times
                self.spend(unpaid // ELEMENTS)
                unpaid %= ELEMENTS
        return size

    def make(self, value: Any) -> None:
        """An operator has made this."""
        if isinstance(value, str):
            self.spend(len(value) // CHARACTERS)
        elif isinstance(value, list):
            self.spend(len(value) // ELEMENTS)
        elif isinstance(value, int):
            self.spend(value.bit_length() // BITS)

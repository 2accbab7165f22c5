"""How to find the items of a failed batch that are at fault, with few calls of the model.

A call that raises is halved, the left half first, so that one faulty item among n costs about 2 log2(n) more calls and
every other item gets its result. Two things would make that expensive:

- *Memory*: a half as large as one that did not fit is split without being tried. When a single item does not fit, it
  was the item and not the size: sizes are tried again from there on.
- *A broken model*: were every item of a large batch to fail, each would be run alone in the end, in 2n - 1 calls. Once
  ``PROBES`` single items spread over the batch have failed alike and nothing has succeeded, the model is taken to be
  broken, and the rest is *condemned* untried. The caller must give condemned items another chance, since among many
  faulty items a few innocent ones may be left. A batch of up to ``SMALL`` items is always searched to the end.
"""

from __future__ import annotations

from collections.abc import Generator, Hashable
from dataclasses import dataclass, field
from enum import Enum

#: Single items that have to fail alike before the rest is given up.
PROBES = 6
#: Batches up to this size are searched to the end.
SMALL = 16


class Verdict(Enum):
    """How one call ended."""

    FINE = "fine"
    RAISED = "raised"
    NO_MEMORY = "no memory"


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of one call. ``likeness`` tells faults apart: alike ones are equal."""

    verdict: Verdict
    likeness: Hashable = None


@dataclass(slots=True)
class Search:
    """``plan`` yields the ranges of items to call the model with; ``condemned`` are the items that it gave up."""

    size: int
    condemned: list[int] = field(default_factory=list)

    def plan(self) -> Generator[range, Answer, None]:
        """Each range is one call; send its answer back. No item is in two calls that ended well."""
        todo = [range(self.size)]
        most = self.size
        alike: Hashable = None
        singles: set[int] = set()
        hopeless = self.size > SMALL
        while todo:
            part = todo.pop()
            if not part or (len(part) == 1 and part[0] in singles):
                continue
            if len(part) > most:
                todo += reversed(_halves(part))
                continue
            answer = yield part
            if answer.verdict is Verdict.FINE:
                hopeless = False
                continue
            if len(part) > 1:
                if answer.verdict is Verdict.NO_MEMORY:
                    most = max(1, len(part) // 2)
                todo += reversed(_halves(part))
                continue
            if answer.verdict is Verdict.NO_MEMORY:
                most = self.size
            singles.add(part[0])
            hopeless = hopeless and (len(singles) == 1 or answer.likeness == alike)
            alike = answer.likeness
            if hopeless and len(singles) == 2:
                hopeless = yield from self._probe(todo, singles, alike)
                if hopeless:
                    self.condemned = [n for part in todo for n in part if n not in singles]
                    return
                # What the probes found fine has its result; it stays in its range, which is searched as before.

    def _probe(self, todo: list[range], singles: set[int], alike: Hashable) -> Generator[range, Answer, bool]:
        """Try single items spread over the rest; whether all fail like the ones before."""
        rest = sorted(n for part in todo for n in part)
        count = PROBES - len(singles)
        for k in range(1, count + 1):
            at = rest[(len(rest) - 1) * k // count]
            answer = yield range(at, at + 1)
            if answer.verdict is Verdict.FINE:
                _remove(todo, at)
                return False
            singles.add(at)
            _remove(todo, at)
            if answer.likeness != alike:
                return False
        return True


def _halves(part: range) -> list[range]:
    middle = (len(part) + 1) // 2
    return [part[:middle], part[middle:]]


def _remove(todo: list[range], at: int) -> None:
    """Take one item out of the ranges."""
    for position, part in enumerate(todo):
        if at in part:
            cut = part.index(at)
            todo[position : position + 1] = [part[cut + 1 :], part[:cut]]
            return

"""Who has to run alone, and who is quarantined: what the end of a worker proves about the jobs that it held.

A batch that takes its worker down (a segmentation fault, the OOM killer, ``os._exit``) proves only that one of its jobs
may be the cause, or none. So all of them become *suspects*, and a suspect runs alone. When a worker dies that held a
single job, that job is *evidence*; with ``max_kills`` such deaths it is quarantined. The same holds for a batch that
does not return within its timeout: nobody can see which job hangs, so the late ones become suspects.

A worker that was stopped is not dead: its jobs are lost, and nothing is held against them.

The store does the same in bulk in SQL (``store.relay``, ``store.claims``); tests drive both with one table.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

Line = TypeVar("Line", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known against a job: ends of its batch, and workers that died with it alone."""

    suspicions: int = 0
    kills: int = 0


class Sentence(StrEnum):
    """What becomes of a job whose worker is gone, budgets of losses apart."""

    AGAIN = "again"
    ALONE = "alone"
    QUARANTINE = "quarantine"


def runs_alone(evidence: Evidence) -> bool:
    """Whether the job must not share a batch."""
    return evidence.suspicions > 0


def after_loss(before: Evidence, *, died: bool, held: int, max_kills: int) -> tuple[Evidence, Sentence]:
    """Judge one job of a worker that is gone.

    ``died``: its lease ran out (otherwise it had unregistered). ``held``: the jobs that it held, this one included;
    finished ones whose outcome was not committed count, which errs in favour of the job.
    """
    if not died:
        return before, Sentence.ALONE if runs_alone(before) else Sentence.AGAIN
    alone = held == 1
    after = Evidence(before.suspicions + 1, before.kills + alone)
    return after, Sentence.QUARANTINE if alone and after.kills >= max_kills else Sentence.ALONE


class Suspicious(Protocol):
    """What this policy may know of a job that waits."""

    @property
    def suspect(self) -> bool: ...


#: So long after a suspect came, and for so long, nothing begins in order that nothing is held any more; again in each
#: round, seconds. Not for good: a generation may take minutes, and others must not stand still for one suspect.
PATIENCE_S, DRAIN_S, ROUND_S = 5.0, 20.0, 60.0


def open_lines(
    lines: Iterable[Line], suspects: Mapping[Line, float], *, held: int, holds_suspect: bool, now: float
) -> set[Line]:
    """Of which lines something may begin, where several jobs are held at a time (``held``): a suspect only by itself.

    ``suspects`` are the lines whose first is a suspect, with when it came. What runs beside a suspect would be blamed
    with it, and it would never be found guilty. Where something always runs, its turn comes by draining.
    """
    if holds_suspect:
        return set()
    if not suspects:
        return set(lines)
    if not held:
        return set(suspects)
    if PATIENCE_S <= max(0.0, now - min(suspects.values())) % ROUND_S < PATIENCE_S + DRAIN_S:
        return set()
    return set(lines) - set(suspects)


def first_group(items: Sequence[Suspicious]) -> int:
    """How many of ``items``, from the first on, may share a batch: a suspect alone, others up to the next suspect."""
    for position, item in enumerate(items):
        if item.suspect:
            return position or 1
    return len(items)

"""Who may lead, and whom that concerns: pure decisions, made without comparing clocks of two machines.

A leadership is of all pools, or of those that its name names. Two whose pools overlap are rivals, and of rivals one
leads at a time.

A leader counts up in a row (``Leadership.beat``). A candidate takes over when that count has not changed for a lease on
the candidate's own monotonic clock, and a leader that could not count for a lease, on its own, does nothing until it
has. That two believe to lead at once is possible all the same (one was stopped in the middle of an action), and does no
harm: what they write is guarded by their epochs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from penstock.policy.liveness import Seen, judge

#: The leadership of an autoscaler of all pools, and what the names of the others begin with.
AUTOSCALER = "autoscaler"


def name_of(pools: Collection[str]) -> str:
    """The name of the leadership of these pools; of none: of all that there are."""
    return f"{AUTOSCALER}:{','.join(sorted(set(pools)))}" if pools else AUTOSCALER


def pools_in(name: str) -> frozenset[str]:
    """The pools that a leadership's name names; empty: it is of all."""
    return frozenset(name.partition(":")[2].split(",")) - {""}


def rivals(name: str, others: Iterable[str]) -> list[str]:
    """Those of these leaderships that have a pool in common with the one of this name; it is its own rival."""
    own = pools_in(name)
    return [other for other in others if not own or not (theirs := pools_in(other)) or own & theirs]


class Leader(Protocol):
    """Who leads, as the row says it."""

    @property
    def holder(self) -> str: ...
    @property
    def epoch(self) -> int: ...
    @property
    def beat(self) -> int: ...


@dataclass(frozen=True, slots=True)
class _Count:
    """A leader's count as a lease: of the length that all have agreed on, another one with each beat."""

    instance: str
    seen_at: float
    lease_until: float


def may_lead(
    before: Mapping[str, Seen], leaders: Iterable[Leader], *, lease_s: float, now: float
) -> tuple[Mapping[str, Seen], bool]:
    """What a candidate remembers for its next look, and whether it may take over from all of these now.

    Nobody has led yet, or the last ones have resigned: at once. A candidate that has just begun knows of nobody for how
    long he has been silent, and waits one lease.
    """
    counts = [_Count(each.holder, each.beat, each.beat + lease_s) for each in leaders if each.holder]
    seen, dead = judge(before, counts, now=now)
    return seen, len(dead) == len(counts)


def may_act(beaten_at: float, *, lease_s: float, now: float) -> bool:
    """Whether a leader may do what no epoch guards, such as starting a process: its last beat, on its own clock, is
    less than a lease ago, so that nobody can have taken over."""
    return now - beaten_at < lease_s

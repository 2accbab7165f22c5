"""Who may lead: a pure decision, made without comparing clocks of two machines.

A leader counts up in a row (``Leadership.beat``). A candidate takes over when that count has not changed for a lease on
the candidate's own monotonic clock, and a leader that could not count for a lease, on its own, does nothing until it
has. That two believe to lead at once is possible all the same (one was stopped in the middle of an action), and does no
harm: what they write is guarded by their epochs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from penstock.policy.liveness import Seen, judge


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


def may_lead(before: Seen | None, leader: Leader | None, *, lease_s: float, now: float) -> tuple[Seen | None, bool]:
    """What a candidate remembers for its next look, and whether it may take over now.

    Nobody has led yet, or the last one has resigned: at once. A candidate that has just begun knows of nobody for how
    long he has been silent, and waits one lease.
    """
    if leader is None or not leader.holder:
        return None, True
    count = _Count(leader.holder, leader.beat, leader.beat + lease_s)
    seen, dead = judge({} if before is None else {leader.holder: before}, [count], now=now)
    return seen[leader.holder], bool(dead)


def may_act(beaten_at: float, *, lease_s: float, now: float) -> bool:
    """Whether a leader may do what no epoch guards, such as starting a process: its last beat, on its own clock, is
    less than a lease ago, so that nobody can have taken over."""
    return now - beaten_at < lease_s

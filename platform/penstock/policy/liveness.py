"""Which workers are dead: a pure decision, made without comparing clocks of two machines.

A worker writes its lease by its own clock; whoever judges it has another, which may be wrong by more than a lease is
long. So the two times that a worker writes are only compared with each other (how long its lease is) and with what it
wrote before (whether it has beaten since), and the waiting is measured on the judge's own monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol


class Lease(Protocol):
    """What a worker has written, by its own clock."""

    @property
    def instance(self) -> str: ...
    @property
    def seen_at(self) -> float: ...
    @property
    def lease_until(self) -> float: ...


class Seen(NamedTuple):
    """A worker's lease as it was first seen: ``since`` is on the judge's monotonic clock, seconds."""

    lease_until: float
    since: float


def judge(
    before: Mapping[str, Seen], leases: Iterable[Lease], *, now: float
) -> tuple[dict[str, Seen], list[tuple[str, float]]]:
    """What is remembered for the next look, and who is dead: ``(instance, lease_until)``.

    A worker is dead when its lease has not changed for as long as it is. A judge that has just begun knows of nobody
    for how long he has been silent, and waits one lease.
    """
    seen: dict[str, Seen] = {}
    dead: list[tuple[str, float]] = []
    for lease in leases:
        known = before.get(lease.instance)
        if known is None or known.lease_until != lease.lease_until:
            known = Seen(lease.lease_until, now)
        seen[lease.instance] = known
        if now - known.since >= lease.lease_until - lease.seen_at:
            dead.append((lease.instance, lease.lease_until))
    return seen, dead

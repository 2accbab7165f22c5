"""A pool's slots as a fleet, and a decision as changes of slots: PURE."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from msgspec import Struct, field

from penstock.policy.scaling import Candidate, Decision, Fleet, victims
from penstock.store.elastic import NewSlot, Slot


class Change(Struct, frozen=True, kw_only=True):
    """What is to be written."""

    add: Sequence[NewSlot] = ()
    set: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.add or self.set)


def grouped(slots: Iterable[Slot]) -> dict[str, list[Slot]]:
    """The slots of each pool."""
    found: dict[str, list[Slot]] = {}
    for slot in slots:
        found.setdefault(slot.pool, []).append(slot)
    return found


def busy_workers(slots: Sequence[Slot], consumers: Mapping[str, int]) -> set[str]:
    """The slots whose workers hold messages. A consumer is ``host:pid:…``, a worker ``name@host:pid:…``."""
    holding = {consumer.rpartition(":")[0] for consumer, count in consumers.items() if count}
    return {
        slot.id
        for slot in slots
        if slot.worker is not None and slot.worker.rpartition("@")[2].rpartition(":")[0] in holding
    }


def late_ones(
    slots: Sequence[Slot], since: Mapping[str, float], *, start_s: float, now: float
) -> tuple[dict[str, float], set[str]]:
    """Since when each slot of a pool was seen without a ready worker, and those for which that is too long."""
    unready = {slot.id: since.get(slot.id, now) for slot in slots if slot.ready_at is None and slot.state == "wanted"}
    return unready, {id for id, at in unready.items() if now - at > start_s}


def fleet_of(
    slots: Sequence[Slot], *, busy: Collection[str], stuck: Mapping[str, str], late: Collection[str] = ()
) -> Fleet:
    """The slots of one pool, counted. What is ``late`` to come up is no capacity: it is told as stuck."""
    phases = [phase_of(slot, busy) for slot in slots]
    why = next((stuck[slot.id] for slot in slots if slot.id in stuck), "") if stuck else ""
    if late and not why:
        why = f"{len(late)} did not come up in time"
    return Fleet(
        ready=phases.count("idle") + phases.count("busy"),
        busy=phases.count("busy"),
        starting=phases.count("starting") - len(late),
        parked=phases.count("parked"),
        draining=phases.count("draining"),
        stuck=why,
    )


def change(
    decision: Decision,
    slots: Sequence[Slot],
    *,
    pool: str,
    busy: Collection[str],
    spec: Mapping[str, Any] = MappingProxyType({}),
) -> Change:
    """What makes of a pool's slots what was decided. What drains goes on draining, and counts for nothing.

    More workers: parked ones first, since they come at once. Fewer: some are parked instead of stopped, where the
    decision wants them. New slots have this ``spec``.
    """
    wanted = [slot for slot in slots if slot.state == "wanted"]
    parked = [slot for slot in slots if slot.state == "parked"]
    set_: dict[str, str] = {}
    add: list[NewSlot] = []
    surplus = len(wanted) - decision.target
    if surplus < 0:
        # Loaded ones first.
        woken = sorted(parked, key=lambda slot: (slot.ready_at is None, slot.made_at))[:-surplus]
        set_ |= dict.fromkeys((slot.id for slot in woken), "wanted")
        parked = [slot for slot in parked if slot not in woken]
        add += [NewSlot(pool=pool, spec=spec) for _ in range(-surplus - len(woken))]
    elif surplus > 0:
        leaving = victims(_candidates(wanted, busy), surplus)
        by_id = {slot.id: slot for slot in wanted}
        loaded = [id for id in leaving if by_id[id].ready_at is not None]
        kept = loaded[: max(0, decision.parked - len(parked))]
        set_ |= {id: "parked" if id in kept else "draining" for id in leaving}
        parked += [by_id[id] for id in kept]
    short = decision.parked - len(parked)
    if short > 0:
        add += [NewSlot(pool=pool, state="parked", spec=spec) for _ in range(short)]
    elif short < 0:
        set_ |= dict.fromkeys(victims(_candidates(parked, busy), -short), "draining")
    return Change(add=add, set=set_)


def _candidates(slots: Sequence[Slot], busy: Collection[str]) -> list[Candidate]:
    return [Candidate(slot.id, phase, slot.made_at) for slot in slots if (phase := phase_of(slot, busy)) != "draining"]


def phase_of(slot: Slot, busy: Collection[str]) -> Literal["starting", "parked", "idle", "busy", "draining"]:
    """What a slot's worker is at."""
    if slot.state == "draining":
        return "draining"
    if slot.state == "parked":
        return "parked"
    if slot.ready_at is None or slot.worker is None:
        return "starting"
    return "busy" if slot.id in busy else "idle"

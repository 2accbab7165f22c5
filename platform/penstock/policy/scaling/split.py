"""How many workers of a pool do interactive jobs only: a pure decision, with hysteresis.

A device that is busy with background work keeps an interactive job waiting until its batch, of at least one job, ends.
Mostly that is a small part of the target (``policy.isolation``) and every worker does best to take what there is. Where
one background job alone takes a good part of it, and background work lasts, a few workers that leave it to the others
are ready when an interactive job comes.

- A split is made when the pressure has lasted, and undone when it has been gone for longer: nothing swings.
- At least half of the workers do both. Background work never starves, and interactive jobs may use all.
- What is not known changes nothing; after a while without knowledge, all do both again.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

#: A background job is long when it takes this part of the interactive target or more …
LONG_SHARE = 0.5
#: … and it presses while there is so much background work for each worker, seconds of its device.
ENOUGH_S = 5.0
#: Below this part of either, the pressure is gone; in between, all stays as it is.
GONE = 0.5
#: How much of such a worker's time interactive jobs may take: more of it, and they would wait for each other.
LOAD = 0.6
#: How long there is pressure before the pool is split, or split further, and how long there is none before it is
#: merged, seconds.
SPLIT_AFTER_S, MERGE_AFTER_S = 30.0, 120.0
#: Older than this, a look says nothing, and after so long without one all workers do both, seconds.
STALE_S, LOST_S = 10.0, 60.0


class Pressure(Struct, frozen=True, kw_only=True):
    """What was seen of a pool."""

    #: The observer's monotonic seconds.
    at: float
    #: Workers that consume.
    workers: int
    #: Device seconds of new interactive work per second.
    interactive: float
    #: Device seconds of background work that is there.
    background_s: float
    #: The longest that one background job of the pool's models takes, seconds.
    longest_s: float
    #: Seconds from enqueue to result that the interactive lane promises.
    target_s: float


class Split(Struct, frozen=True, kw_only=True):
    """What one decision leaves to the next. ``Split()`` is the beginning: all do both."""

    #: How many do interactive jobs only.
    alone: int = 0
    #: How many it would be by what was seen, and since when more, or fewer, than there are; ``None``: as many.
    more_since: float | None = None
    fewer_since: float | None = None
    #: When anything was last known.
    known_at: float | None = None
    #: The most that were wanted while fewer than there are were.
    most_lately: int = 0

    def as_json(self, *, now: float) -> dict[str, Any]:
        """For a successor, whose clock is another: it keeps the split, and begins to count anew."""
        return {"alone": self.alone, "age_s": None if self.known_at is None else now - self.known_at}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, now: float) -> Split:
        """What ``as_json`` gave. Of what it does not understand it makes the beginning."""
        alone, age_s = value.get("alone"), value.get("age_s")
        if not isinstance(alone, int) or isinstance(alone, bool) or alone < 0 or not isinstance(age_s, int | float):
            return cls()
        return cls(alone=alone, known_at=now - age_s)


class Verdict(Struct, frozen=True):
    """How many do interactive jobs only from now on. ``code`` is a stable word, ``reason`` a sentence for a person."""

    alone: int
    state: Split
    code: str
    reason: str


def split(now: float, pressure: Pressure | None, workers: int, state: Split) -> Verdict:
    """``workers`` consume now: however few were seen before, some do both. ``pressure`` may be old, or never seen."""
    fresh = pressure is not None and now - pressure.at <= STALE_S
    if pressure is None or not fresh:
        return _unknown(now, workers, state)
    wanted, why = want(pressure, now_alone=state.alone)
    most = _most(workers)
    wanted = min(wanted, most)
    state = replace(state, known_at=pressure.at)
    if state.alone > most:
        return _to(most, state, "split.fewer_workers", f"{workers} workers are left, and half of them do both")
    if wanted > state.alone:
        since = now if state.more_since is None else state.more_since
        state = replace(state, more_since=since, fewer_since=None, most_lately=0)
        if now - since >= SPLIT_AFTER_S:
            return _to(wanted, state, "split", f"background work has pressed for {now - since:.0f} s: {why}")
        pending = f"background work has pressed for {now - since:.0f} s, and a pool is split after {SPLIT_AFTER_S:.0f}"
        return Verdict(state.alone, state, "split.pending", f"{pending}: {why}")
    if wanted < state.alone:
        since = now if state.fewer_since is None else state.fewer_since
        state = replace(state, more_since=None, fewer_since=since, most_lately=max(state.most_lately, wanted))
        if now - since >= MERGE_AFTER_S:
            # Not to what is wanted this moment: to the most that was while fewer were.
            return _to(state.most_lately, state, "merge", f"less has been enough for {now - since:.0f} s: {why}")
        pending = f"less has been enough for {now - since:.0f} s, and a pool is merged after {MERGE_AFTER_S:.0f}"
        return Verdict(state.alone, state, "merge.pending", f"{pending}: {why}")
    return Verdict(state.alone, replace(state, more_since=None, fewer_since=None, most_lately=0), "steady", why)


def want(pressure: Pressure, *, now_alone: int) -> tuple[int, str]:
    """How many would do interactive jobs only if nothing had to last, and why."""
    each_s = pressure.background_s / max(1, pressure.workers)
    figures = (
        f"one background job takes up to {pressure.longest_s:.3g} s, where an interactive one is to be done in"
        f" {pressure.target_s:.3g} s, and each worker has {each_s:.3g} s of background work before it"
    )
    long, enough = LONG_SHARE * pressure.target_s, ENOUGH_S
    if now_alone:  # what has led to a split must go further down to end it
        long, enough = GONE * long, GONE * enough
    if pressure.interactive <= 0:
        return 0, "no interactive jobs come"
    if pressure.longest_s < long or each_s < enough:
        return 0, figures
    return math.ceil(pressure.interactive / LOAD), figures


def chosen(workers: Collection[str], alone: int, before: Iterable[str]) -> list[str]:
    """Which of them: those that have been it stay it, then the first by name. Never more than half."""
    was = set(before)
    order = sorted(workers, key=lambda worker: (worker not in was, worker))
    return sorted(order[: min(alone, _most(len(workers)))])


def _most(workers: int) -> int:
    return workers // 2


def _unknown(now: float, workers: int, state: Split) -> Verdict:
    if state.alone and (state.known_at is None or now - state.known_at > LOST_S):
        return _to(0, state, "merge.lost", f"nothing was seen of the pool for {LOST_S:.0f} s")
    alone = min(state.alone, _most(workers))
    state = replace(state, alone=alone, more_since=None, fewer_since=None, most_lately=0)
    return Verdict(alone, state, "hold.stale", "nothing new was seen of the pool")


def _to(alone: int, state: Split, code: str, reason: str) -> Verdict:
    return Verdict(alone, Split(alone=alone, known_at=state.known_at), code, reason)

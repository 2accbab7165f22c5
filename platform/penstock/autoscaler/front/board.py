"""What is known of every pool, and what may be told of it: one place, written by one thread and read by many."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from penstock import clock
from penstock.policy.scaling import Fleet

#: For so long the ring of a bell counts as one wanted worker, seconds: until the next decisions have seen the jobs.
RING_HOLDS_S = 5.0

#: What is told of a fleet, besides what is wanted.
STATES = ("ready", "starting", "parked", "draining")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One pool, as it was last decided or last seen to be decided. Times are monotonic seconds of this process."""

    desired: int
    #: ``None``: it is not known here what there is of them.
    fleet: Fleet | None = None
    at: float
    #: When the work was seen; ``None``: by somebody else, or never.
    load_at: float | None = None
    #: Of the decision, for people.
    code: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Desired:
    """What is told of a pool."""

    #: ``None``: it is not known.
    workers: int | None
    #: Whether there should be any worker; ``None``: it is not known.
    active: bool | None
    #: Why something is not known, for a person.
    why: str = ""


def answer(standing: Standing | None, *, rung_at: float | None, now: float, stale_s: float) -> Desired:
    """PURE. A bell that was rung just now stands for one worker where none is wanted yet.

    Where the last decision is too old the ring still wakes the pool, if that had no worker: to have one too many is a
    smaller fault than to have none. How many are wanted stays unknown.
    """
    rung = rung_at is not None and now - rung_at < RING_HOLDS_S
    if standing is None:
        return Desired(None, None, "nothing was decided on this pool yet")
    age_s = now - standing.at
    if age_s > stale_s:
        why = f"the last decision is {age_s:.0f} s old" if math.isfinite(age_s) else "no decision was seen yet"
        why += ": no autoscaler leads, or it cannot reach the database"
        return Desired(None, True if rung and standing.desired == 0 else None, why)
    workers = max(standing.desired, 1 if rung else 0)
    return Desired(workers, workers > 0)


class Board:
    """Thread-safe. Whoever wants to know of changes gives a call, which must return at once."""

    def __init__(self, *, stale_s: float, now_mono: Callable[[], float] = clock.monotonic_s) -> None:
        self.stale_s = stale_s
        self._now = now_mono
        self._lock = threading.Lock()
        self._standings: Mapping[str, Standing] | None = None
        self._rung: dict[str, float] = {}
        self._calls: list[Callable[[], None]] = []
        #: Whether this process decides.
        self.leads = False

    # In ---------------------------------------------------------------------------------------------------------

    def post(self, standings: Mapping[str, Standing]) -> None:
        """All pools as they are now. Pools that are missing are no longer known."""
        self._standings = dict(standings)
        self._tell()

    def ring(self, pool: str) -> None:
        """Jobs have come to a pool; it counts where none of its workers is wanted."""
        with self._lock:
            self._rung[pool] = self._now()
        self._tell()

    # Out --------------------------------------------------------------------------------------------------------

    @property
    def pools(self) -> list[str] | None:
        """All pools; ``None``: nobody has posted yet."""
        return None if self._standings is None else sorted(self._standings)

    def standing(self, pool: str) -> Standing | None:
        """What was last posted of a pool."""
        return None if self._standings is None else self._standings.get(pool)

    def answer(self, pool: str) -> Desired:
        """What may be told of a pool now."""
        return answer(self.standing(pool), rung_at=self._rung.get(pool), now=self._now(), stale_s=self.stale_s)

    def age_s(self, at: float) -> float:
        """How long ago that was."""
        return max(0.0, self._now() - at)

    def at_zero(self) -> list[str]:
        """The pools of which no worker is wanted: those that a ring wakes."""
        return [pool for pool, standing in (self._standings or {}).items() if standing.desired == 0]

    def subscribe(self, call: Callable[[], None]) -> Callable[[], None]:
        """Call at every post and ring, on the thread that does it. Returns what ends that."""
        with self._lock:
            self._calls.append(call)

        def end() -> None:
            with self._lock, suppress(ValueError):
                self._calls.remove(call)

        return end

    def _tell(self) -> None:
        with self._lock:
            calls = list(self._calls)
        for call in calls:
            call()

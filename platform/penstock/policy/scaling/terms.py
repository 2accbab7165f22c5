"""What a scaling decision is made of, and what it is: the vocabulary of this package and of everybody around it.

All work is in seconds of device time, all times are seconds on the observer's monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct, field

from penstock.lane import Lane
from penstock.policy.scaling.state import State


class Terms(Struct, frozen=True, kw_only=True):
    """What the settings, and what was learned, say of one pool."""

    #: Workers at least and at most.
    least: int
    most: int
    #: Parked spares at least: loaded, and not consuming.
    warm: int = 0
    #: Seconds from enqueue to result that a lane promises.
    target_s: Mapping[Lane, float]
    #: From the decision to a worker that is ready, cold.
    ready_in_s: float = 10.0
    #: The same for a parked one; ``None``: this pool cannot park.
    wake_in_s: float | None = None
    #: When signals have been lost for so long, that is what is said; nothing is ever scaled down without signals.
    lost_after_s: float = 600.0


class Load(Struct, frozen=True, kw_only=True):
    """What was seen of a pool's work at one moment."""

    #: The observer's monotonic seconds: its age is ``now - at``.
    at: float
    #: Device seconds of new work per second, since the look before.
    demand: float
    #: Device seconds of ready, claimed, buffered and running work, and of what was refused since the last look; not of
    #: what is delayed or held back.
    backlog_s: Mapping[Lane, float]
    #: The part of it that was refused.
    refused_s: float = 0.0
    #: ``(slack_s from at, device seconds)`` of work with deadlines of its own, the earliest first, bounded.
    due: Sequence[tuple[float, float]] = ()
    #: How many jobs that is: a pool whose jobs' times nobody knows yet still needs one worker.
    jobs: int = 0
    #: Those of them whose times nobody knows: they are in none of the seconds.
    untimed: int = 0
    #: The interactive part of ``demand``, and the longest that one of the background jobs that are there takes alone:
    #: what a split between lanes is decided by.
    interactive: float = 0.0
    longest_s: float = 0.0


class Fleet(Struct, frozen=True, kw_only=True):
    """A pool's workers as they are."""

    ready: int = 0
    #: Part of ``ready``.
    busy: int = 0
    starting: int = 0
    parked: int = 0
    draining: int = 0
    #: Why starting ones do not come up (``CrashLoop: …``), for who may know what a worker has said; empty: they do.
    stuck: str = ""


class Context(Struct, frozen=True, kw_only=True):
    """Everything a decision may depend on. ``load`` is ``None`` while nothing was ever seen."""

    now: float
    terms: Terms
    load: Load | None
    fleet: Fleet
    state: State = field(default_factory=State)


class Decision(Struct, frozen=True, kw_only=True):
    """How many workers are wanted, and why."""

    #: Workers that consume: ready and starting together.
    target: int
    #: Parked ones beside them.
    parked: int
    #: For the next decision.
    state: State
    #: A stable word: "steady", "panic", "hold.stale", …
    code: str
    #: A sentence or two for anybody, with the figures.
    reason: str

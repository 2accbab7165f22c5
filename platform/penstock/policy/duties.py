"""What the dispatcher's reconciler does next: a pure decision.

The shell (``dispatch.reconciler``) keeps a ``Diary`` of what it did and saw, asks ``due`` which duties to perform
now, performs them in that order, and sleeps until ``wake_at``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum


class Duty(StrEnum):
    """One kind of work, in the order of performance: first what gives jobs back to workers."""

    #: Jobs of dead workers go back to `accepted`, or fail when they have cost too many workers.
    RESCUE = "rescue"
    #: Messages that dead consumers had claimed go back to their queues.
    RESTORE = "restore"
    #: The tenants' weights and caps are given to the broker, where it has lost them or somebody could not set them.
    TENANTS = "tenants"
    #: What was due when it came, by a clock that has been set back since, is due now.
    REDATE = "redate"
    #: Waiting jobs whose deadline has passed end as `expired`.
    EXPIRE = "expire"
    #: Runs that are due begin, overdue ones end, and what was left to do for others by who died is done.
    RUNS = "runs"
    #: Plain tasks in runs end of which the result backend says so, or of which nobody has heard in time.
    TASKS = "tasks"
    #: Compare how many messages SQL expects at the broker with how many there are.
    COMPARE = "compare"
    #: Compare id by id and publish again what the broker has lost.
    REPUBLISH = "republish"
    #: Settled members of a canvas whose callbacks were not sent are published again for a worker to finish.
    CANVAS = "canvas"
    #: Remove what is past its retention.
    PRUNE = "prune"


#: Duties that need the broker, not only SQL.
NEEDS_BROKER = frozenset({Duty.RESTORE, Duty.TENANTS, Duty.TASKS, Duty.COMPARE, Duty.REPUBLISH, Duty.CANVAS})

#: Duties that do without SQL.
NEEDS_NO_DATABASE = frozenset({Duty.RESTORE})

#: Comparisons in a row that must find too few messages before the ids are compared one by one: a single count is
#: taken while jobs move, so it is often off.
MISMATCHES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """Seconds between two performances of a duty."""

    expire_every_s: float = 0.5
    reconcile_every_s: float = 5.0
    prune_every_s: float = 300.0

    def every(self, duty: Duty) -> float:
        """The interval of a duty."""
        if duty in (Duty.EXPIRE, Duty.RUNS):
            return self.expire_every_s
        if duty is Duty.PRUNE:
            return self.prune_every_s
        return self.reconcile_every_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Diary:
    """What is known at one moment. Times are on the clock of ``now``.

    ``incarnation`` identifies the broker's data set as last seen (its process and its epoch), ``None`` while it
    cannot be seen. ``reconciled`` is the incarnation that was last compared id by id. ``not_before`` holds duties back
    that judge by leases: after an outage everybody looks dead, until all had the time to renew their leases.
    """

    now: float
    done_at: Mapping[Duty, float] = field(default_factory=dict)
    incarnation: str | None = None
    reconciled: str | None = None
    mismatches: int = 0
    not_before: Mapping[Duty, float] = field(default_factory=dict)

    @property
    def broker_up(self) -> bool:
        """Whether the broker answered when last asked."""
        return self.incarnation is not None

    def did(self, duty: Duty) -> Diary:
        """The diary after a duty was performed."""
        return replace(self, done_at={**self.done_at, duty: self.now})

    def hold(self, duty: Duty, until: float) -> Diary:
        """The diary with a duty held back."""
        return replace(self, not_before={**self.not_before, duty: until})


def due(diary: Diary, rhythm: Rhythm) -> tuple[Duty, ...]:
    """The duties to perform now.

    ``REPUBLISH`` is due when the broker is another one than was last compared (it was wiped, or restarted and may
    have lost its last second), when this dispatcher has never compared, or when counts disagreed repeatedly.
    Everything else is due by time. Without the broker, the duties in SQL go on.
    """
    duties = []
    for duty in Duty:
        if duty in NEEDS_BROKER and not diary.broker_up:
            continue
        if duty is Duty.REPUBLISH:
            # Not a matter of rhythm: jobs wait for it.
            ripe = diary.incarnation != diary.reconciled or diary.mismatches >= MISMATCHES
        elif duty is Duty.TENANTS and diary.incarnation != diary.reconciled:
            ripe = True  # before the lost jobs come back
        else:
            ripe = _ripe_at(duty, diary, rhythm) <= diary.now
        if ripe:
            duties.append(duty)
    return tuple(duties)


def wake_at(diary: Diary, rhythm: Rhythm) -> float:
    """When something is due next, if nothing changes until then. May be in the past."""
    timed = [duty for duty in Duty if duty is not Duty.REPUBLISH and (diary.broker_up or duty not in NEEDS_BROKER)]
    return min(_ripe_at(duty, diary, rhythm) for duty in timed)


def _ripe_at(duty: Duty, diary: Diary, rhythm: Rhythm) -> float:
    last = diary.done_at.get(duty)
    by_rhythm = diary.now if last is None else last + rhythm.every(duty)
    return max(by_rhythm, diary.not_before.get(duty, by_rhythm))

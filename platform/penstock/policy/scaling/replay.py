"""What the policy would do, and cost, on traffic that was recorded: the very ``decide``, on a simple model of a pool.

The model: work is a liquid of device seconds. A minute's work comes evenly, but for one second, in which the most came
that was seen in one; workers do a device second each per second, are ready ``ready_in_s`` after they are wanted, and
leave at once when they are not. All work counts against the tightest target, since records do not tell lanes apart.
What would wait longer than that is late. There is no chance in it, so what hovers at the edge looks a little better
than it will be; nor are batches that grow under load, which make it better again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from penstock.lane import Lane
from penstock.policy.scaling.decide import decide
from penstock.policy.scaling.state import State
from penstock.policy.scaling.terms import Context, Fleet, Load, Terms

MINUTE_S = 60.0
#: Seconds per step: around a minute's worst second, through the rest of it, and when nothing has happened for long.
STEP_S, LONG_STEP_S, IDLE_STEP_S, CALM_S = 1.0, 10.0, 20.0, 900.0
#: So many seconds after the worst one are looked at singly, with it.
CLOSE = 5
#: Work below this is none, device seconds.
NONE_S = 1e-6


class Past(Struct, frozen=True, kw_only=True):
    """One recorded minute of a pool. What ends in ``_s`` was added up over the ``seconds`` that were seen."""

    #: When it began, Unix seconds.
    at: float
    seconds: float
    #: New work, device seconds, and the most that came in one second.
    demand_s: float
    demand_most: float = 0.0
    #: Worker seconds: wanted, and parked beside them.
    wanted_s: float = 0.0
    parked_s: float = 0.0
    ready_in_s: float | None = None
    wake_in_s: float | None = None

    @property
    def rate(self) -> float:
        """Device seconds of new work per second."""
        return self.demand_s / self.seconds if self.seconds else 0.0


class Replayed(Struct, frozen=True, kw_only=True):
    """What a policy would have done in the time that was seen."""

    seconds: float = 0.0
    #: Ready and starting workers, and parked ones, added up.
    worker_s: float = 0.0
    parked_s: float = 0.0
    #: Most workers at a time.
    most: int = 0
    #: Changes of the target.
    changes: int = 0
    demand_s: float = 0.0
    #: Of ``demand_s``, what would have waited longer than the target.
    late_s: float = 0.0

    @property
    def late(self) -> float:
        """The share of the work that is late."""
        return self.late_s / self.demand_s if self.demand_s > NONE_S else 0.0

    @property
    def workers(self) -> float:
        """Workers on average."""
        return self.worker_s / self.seconds if self.seconds else 0.0


def replay(minutes: Sequence[Past], terms: Terms, *, times: float = 1.0) -> Replayed:
    """The policy under ``terms``, on ``times`` the traffic of these minutes.

    Time that was not seen is left out: each gap begins anew, from what the record says there was.
    """
    total = Replayed()
    pool: _Pool | None = None
    ended = -math.inf
    for minute in minutes:
        if pool is None or minute.at - ended > MINUTE_S:
            total = _plus(total, pool.take()) if pool is not None else total
            pool = _Pool(terms, workers=round(minute.wanted_s / minute.seconds) if minute.seconds else terms.least)
        for step_s, came in _steps(minute, times, calm=pool.calm_s >= CALM_S):
            pool.step(step_s, came)
        ended = minute.at + MINUTE_S
    return _plus(total, pool.take()) if pool is not None else total


def _steps(minute: Past, times: float, *, calm: bool) -> Iterator[tuple[float, float]]:
    """``(seconds, device seconds that come in them)``: the first half, the worst second and what follows, the rest."""
    work = minute.demand_s * times
    if work <= NONE_S and calm:
        yield from [(IDLE_STEP_S, 0.0)] * int(minute.seconds // IDLE_STEP_S)
        return
    most = min(work, max(minute.demand_most * times, work / max(minute.seconds, 1.0)))
    rate = (work - most) / max(minute.seconds - STEP_S, STEP_S)
    half = int(minute.seconds / 2 // LONG_STEP_S)
    yield from [(LONG_STEP_S, LONG_STEP_S * rate)] * half
    yield STEP_S, most
    left_s = minute.seconds - half * LONG_STEP_S - STEP_S
    for _ in range(min(CLOSE, int(left_s))):
        yield STEP_S, rate * STEP_S
        left_s -= STEP_S
    while left_s >= STEP_S:
        step_s = min(LONG_STEP_S, left_s)
        yield step_s, rate * step_s
        left_s -= step_s


def settled(rate: float, terms: Terms, *, most: float, minutes: int) -> int:
    """The most workers that there are in the last of so many minutes, in each of which work comes at this rate, and in
    one second ``most``, device seconds.
    """
    pool = _Pool(terms, workers=math.ceil(rate))
    minute = Past(at=0.0, seconds=MINUTE_S, demand_s=rate * MINUTE_S, demand_most=most)
    last = 0
    for left in reversed(range(minutes)):
        for step_s, came in _steps(minute, 1.0, calm=False):
            pool.step(step_s, came)
            last = last if left else max(last, pool.workers)
    return last


class _Pool:
    """The liquid model of one pool."""

    def __init__(self, terms: Terms, *, workers: int) -> None:
        self._terms = terms
        self._target_s = min(terms.target_s.values(), default=1.0)
        self._now = 0.0
        self._state = State()
        self._ready = min(max(workers, terms.least), terms.most)
        self._parked = 0
        #: When each starting worker, and each starting spare, is ready.
        self._starting: list[float] = []
        self._spares: list[float] = []
        self._target = self._ready
        self._backlog_s = 0.0
        self._worker_s = self._parked_s = self._demand_s = self._late_s = self._seconds = 0.0
        self._most = self._changes = 0
        #: For how long nothing has come and nothing was changed.
        self.calm_s = 0.0

    @property
    def workers(self) -> int:
        """Ready and starting ones."""
        return self._ready + len(self._starting)

    def step(self, step_s: float, came: float) -> None:
        """So much work comes in this time; the policy has looked at its beginning."""
        self._now += step_s
        if self._starting or self._spares:
            starting, spares = len(self._starting), len(self._spares)
            self._starting = [at for at in self._starting if at > self._now]
            self._spares = [at for at in self._spares if at > self._now]
            self._ready += starting - len(self._starting)
            self._parked += spares - len(self._spares)
        late = came if self._wait_s(came, step_s) > self._target_s else 0.0
        self._backlog_s = max(0.0, self._backlog_s + came - self._ready * step_s)
        changed = self._decide(came / step_s)
        self.calm_s = self.calm_s + step_s if came <= NONE_S and not changed else 0.0
        here = self.workers
        self._seconds += step_s
        self._worker_s += here * step_s
        self._parked_s += (self._parked + len(self._spares)) * step_s
        self._most = max(self._most, here)
        self._changes += changed
        self._demand_s += came
        self._late_s += late

    def take(self) -> Replayed:
        """What was added up."""
        return Replayed(
            seconds=self._seconds,
            worker_s=self._worker_s,
            parked_s=self._parked_s,
            most=self._most,
            changes=self._changes,
            demand_s=self._demand_s,
            late_s=self._late_s,
        )

    def _wait_s(self, came: float, step_s: float) -> float:
        """How long what comes now waits, on average: for what was before it, and for what is too much of it."""
        if self._ready:
            return (self._backlog_s + max(0.0, came - self._ready * step_s) / 2) / self._ready
        return min(self._starting, default=math.inf) - self._now

    def _decide(self, rate: float) -> bool:
        fleet = Fleet(
            ready=self._ready,
            busy=min(self._ready, math.ceil(rate + self._backlog_s)),
            starting=len(self._starting),
            parked=self._parked,
        )
        work = max(self._backlog_s, 0.0)
        load = Load(
            at=self._now,
            demand=rate,
            backlog_s={Lane.INTERACTIVE: work, Lane.BACKGROUND: 0.0},
            jobs=math.ceil(work + (rate > NONE_S)),
        )
        decision = decide(Context(now=self._now, terms=self._terms, load=load, fleet=fleet, state=self._state))
        self._state = decision.state
        self._reach(decision.target, decision.parked)
        changed, self._target = decision.target != self._target, decision.target
        return changed

    def _reach(self, target: int, parked: int) -> None:
        """Start, wake, park and stop workers, as a backend does."""
        short = target - self._ready - len(self._starting)
        woken = min(max(short, 0), self._parked) if self._terms.wake_in_s is not None else 0
        self._parked -= woken
        self._starting += [self._now + (self._terms.wake_in_s or 0.0)] * woken
        self._starting += [self._now + self._terms.ready_in_s] * max(short - woken, 0)
        for _ in range(-short):
            if self._starting:
                self._starting.pop()
            else:
                self._ready -= 1
                self._parked += self._terms.wake_in_s is not None and self._parked < parked
        self._parked = min(self._parked, max(parked, 0))
        self._spares = self._spares[: max(parked - self._parked, 0)]
        self._spares += [self._now + self._terms.ready_in_s] * (parked - self._parked - len(self._spares))


def _plus(one: Replayed, two: Replayed) -> Replayed:
    return Replayed(
        seconds=one.seconds + two.seconds,
        worker_s=one.worker_s + two.worker_s,
        parked_s=one.parked_s + two.parked_s,
        most=max(one.most, two.most),
        changes=one.changes + two.changes,
        demand_s=one.demand_s + two.demand_s,
        late_s=one.late_s + two.late_s,
    )


def recorded(minutes: Iterable[Past]) -> Replayed:
    """What there was, as far as records tell: not what was late."""
    total = Replayed()
    for minute in minutes:
        total = _plus(
            total,
            Replayed(
                seconds=minute.seconds,
                worker_s=minute.wanted_s,
                parked_s=minute.parked_s,
                most=math.ceil(minute.wanted_s / minute.seconds - 0.01) if minute.seconds else 0,
                demand_s=minute.demand_s,
            ),
        )
    return total

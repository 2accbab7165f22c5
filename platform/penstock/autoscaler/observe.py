"""What there is to do, in seconds of device time: a short look at the broker and a short walk along an index in SQL.

What changes slowly (which models there are, where they are served, how long their batches take) is read every
``KNOWN_S``. Whatever cannot be read makes the whole look unknown: half of the work is no figure to scale by.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from penstock import clock
from penstock.autoscaler.terms import target_of
from penstock.errors import BrokerUnavailable, StoreUnavailable
from penstock.lane import LANES, PIPELINES, Lane, queue_name
from penstock.policy import work as policy
from penstock.policy.pools import DEFAULT, place, want_announced
from penstock.policy.scaling import Load
from penstock.settings import Settings
from penstock.store import Store
from penstock.store.records import Latency
from penstock.telemetry.reach import Reach
from penstock.transport import work
from penstock.transport.mend import number
from penstock.transport.url import unavailable

#: How long what changes slowly is believed, seconds.
KNOWN_S = 5.0
#: New work is the mean of the looks of so long, seconds: workers tell of done jobs once in half of it.
DEMAND_S = 2.0
#: Deadlines that are looked at.
MOST_DEADLINES = 200

#: A model's lane: of all versions that are served.
Key = tuple[str, Lane]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One look. ``loads`` by pool; none at all at the first look, before which nothing is known of what has come."""

    loads: Mapping[str, Load] = field(default_factory=dict)
    #: Messages held, by consumer: ``host:pid:…``.
    consumers: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What changes slowly: of each model what was announced, its pool, its queues, and how long its batches take."""

    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pools: Mapping[str, str] = field(default_factory=dict)
    queues: Mapping[str, Key] = field(default_factory=dict)
    lines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Observer:
    """``look`` once a second. Not thread-safe. ``given`` are models that are known before any worker has announced
    them, as ``Store.models`` has them."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        client: redis.Redis,
        given: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._work = work.Watch(client, settings.namespace)
        self._given = given or {}
        self._known = Known()
        self._known_at = float("-inf")
        self._queues: dict[Key, policy.Queue] = {}
        self._looked_at: float | None = None
        #: Of the last looks, when each began and ended, and the device seconds that came in it, by pool.
        self._came: deque[tuple[float, float, Mapping[str, float]]] = deque()
        self._broker = Reach("broker", service="autoscaler")
        self._database = Reach("database", service="autoscaler")

    @property
    def knows(self) -> bool:
        """Whether the models were read."""
        return self._known_at > float("-inf")

    @property
    def pools(self) -> set[str]:
        """The pools of all models that are known."""
        return set(self._known.pools.values())

    def look(self) -> Observation | None:
        """What there is to do now; ``None``: it is not known. Never raises for a server that is away."""
        try:
            self._learn()
            deadlines = self._store.deadlines(now=clock.now(), limit=MOST_DEADLINES)
            self._database.found()
            found = self._ask()
            self._broker.found()
        except StoreUnavailable as error:
            self._database.lost(error)
            return None
        except BrokerUnavailable as error:
            self._broker.lost(error)
            return None
        at = clock.monotonic_s()
        before, self._looked_at = self._looked_at, at
        counts = counted(found, self._known.queues)
        self._queues = {
            key: policy.after(self._queues[key], count, elapsed_s=at - (before or at))
            if key in self._queues
            else policy.first(count)
            for key, count in counts.items()
        }
        if before is None:
            return Observation(consumers=found.consumers)
        due = [((model, Lane(lane)), ends_at) for model, lane, ends_at in deadlines]
        return Observation(loads=self._loads(due, at=at, elapsed_s=at - before), consumers=found.consumers)

    def _ask(self) -> work.Work:
        try:
            return self._work.look(self._known.queues)
        except (redis.RedisError, OSError) as error:
            raise unavailable(self._settings.broker, error) from error

    def _learn(self) -> None:
        if clock.monotonic_s() - self._known_at < KNOWN_S:
            return
        models = {**self._given, **self._store.models()}
        served: dict[str, set[str]] = {name: {str(info.get("version"))} for name, info in models.items()}
        for worker in self._store.workers():
            for name, info in said(worker.info.get("models")).items():
                served.setdefault(name, set()).add(str(said(info).get("version")))
        pools = self._settings.served_pools()
        self._known = Known(
            models=models,
            pools={name: place(want_announced(name, info), pools).pool for name, info in models.items()},
            queues=queues_of(self._settings.namespace, served),
            lines=_lines(self._store.latencies()),
        )
        self._known_at = clock.monotonic_s()

    def _loads(self, due: Sequence[tuple[Key, float]], *, at: float, elapsed_s: float) -> dict[str, Load]:
        paces = {key: self._pace(key) for key in self._queues}
        now = clock.now()
        demand = self._demand(paces, at=at, elapsed_s=elapsed_s)
        loads = {}
        by_pool: dict[str, list[Key]] = {pool: [] for pool in {*self._known.pools.values(), *self._settings.pools}}
        for key in self._queues:
            by_pool.get(self._known.pools.get(key[0], DEFAULT), []).append(key)
        for pool, keys in by_pool.items():
            known = {key: pace for key in keys if (pace := paces[key]) is not None}
            backlog_s = dict.fromkeys(LANES, 0.0)
            for key, pace in known.items():
                # What was refused since the look before would be there, with more workers.
                backlog_s[key[1]] += pace.seconds(self._queues[key].count.there + self._queues[key].refused)
            loads[pool] = Load(
                at=at,
                demand=demand.get(pool, 0.0),
                backlog_s=backlog_s,
                refused_s=sum(self._queues[key].refused * pace.job_s for key, pace in known.items()),
                due=policy.due(
                    ((ends_at, key) for key, ends_at in due), {key: pace.job_s for key, pace in known.items()}, now=now
                ),
                jobs=self._jobs(keys),
                # Celery's calls of pipelines take no time.
                untimed=self._jobs(key for key in keys if key not in known and key[0] != PIPELINES),
                interactive=sum(
                    self._queues[key].came * pace.job_s for key, pace in known.items() if key[1] is Lane.INTERACTIVE
                )
                / max(elapsed_s, 1e-3),
                longest_s=max((self._alone_s(key, pace) for key, pace in known.items()), default=0.0),
            )
        return loads

    def _jobs(self, keys: Iterable[Key]) -> int:
        return math.ceil(sum(self._queues[key].count.there for key in keys) - 0.01)

    def _alone_s(self, key: Key, pace: policy.Pace) -> float:
        """How long a background job of which there are some takes alone, as far as is known; 0 of all others."""
        if key[1] is not Lane.BACKGROUND or self._queues[key].count.there <= 0:
            return 0.0
        line = self._known.lines.get(key[0]) or {}
        return max(pace.job_s, float(line.get("alpha") or 0.0) + float(line.get("beta") or 0.0))

    def _demand(self, paces: Mapping[Key, policy.Pace | None], *, at: float, elapsed_s: float) -> dict[str, float]:
        """New work by pool, device seconds a second."""
        came: dict[str, float] = {}
        for key, pace in paces.items():
            if pace is not None:
                pool = self._known.pools.get(key[0], DEFAULT)
                came[pool] = came.get(pool, 0.0) + self._queues[key].came * pace.job_s
        self._came.append((at - elapsed_s, at, came))
        while len(self._came) > 1 and at - self._came[1][0] >= DEMAND_S:
            self._came.popleft()
        over_s = max(at - self._came[0][0], 1e-3)
        return {
            pool: sum(each.get(pool, 0.0) for _, _, each in self._came) / over_s
            for pool in {pool for _, _, each in self._came for pool in each}
        }

    def _pace(self, key: Key) -> policy.Pace | None:
        model, lane = key
        info = self._known.models.get(model, {})
        target_s = target_of(self._settings, self._known.pools.get(model, DEFAULT), lane)
        return policy.pace(
            self._known.lines.get(model),
            size=max(1, int(number(info.get("max_size"), 1.0))),
            target_s=target_s,
            measured_s=self._queues[key].measured_s,
            steps=bool(info.get("steps")),
        )


def said(value: Any) -> Mapping[str, Any]:
    """What another release has written where names stand: nothing, where it is something else."""
    return value if isinstance(value, Mapping) else {}


def queues_of(namespace: str, versions: Mapping[str, Iterable[str]]) -> dict[str, Key]:
    """The queues of all models and of those of their versions that are served: PURE.

    What asks for another version waits for a deployment, and not for more of these workers.
    """
    found: dict[str, Key] = {}
    for lane in LANES:
        # Celery's calls of pipelines are anybody's; they take no time, and somebody has to be there.
        found[queue_name(namespace, PIPELINES, lane)] = (PIPELINES, lane)
        for model, known in versions.items():
            for version in (None, *sorted(known)):
                found[queue_name(namespace, model, lane, version)] = (model, lane)
    return found


def counted(found: work.Work, queues: Mapping[str, Key]) -> dict[Key, policy.Count]:
    """By model and lane, the queues of its versions added up: PURE."""
    counts: dict[Key, policy.Count] = {}
    for queue, key in queues.items():
        one, spent = counts.get(key, policy.Count()), found.spent[queue]
        counts[key] = policy.Count(
            there=one.there + found.ready[queue] + found.held[queue],
            held=one.held + found.held[queue],
            done=one.done + spent.jobs,
            device_s=one.device_s + spent.device_s,
            refused=one.refused + spent.refused,
        )
    return counts


def _lines(latencies: Iterable[Latency]) -> dict[str, Mapping[str, Any]]:
    """Of each model, the line of all its batches that has seen most, whatever the version and the device."""
    lines: dict[str, Mapping[str, Any]] = {}
    for line in latencies:
        known, state = lines.get(line.model), {name: number(value) for name, value in said(line.state).items()}
        if line.key == "" and (known is None or state.get("seen", 0.0) > known.get("seen", 0.0)):
            lines[line.model] = state
    return lines

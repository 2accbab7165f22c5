"""The workers that there are, and what each serves: from SQL, and from what they say at the broker.

SQL says who lives (leases), and what each announced when it started. The broker says what a worker that cannot hold all
its models has loaded now, and how many messages each has claimed. A picture of a moment: whoever shows it is a little
late, and nothing may be decided by it that a row should decide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import redis

from penstock.lane import split_name
from penstock.policy.versions import Served
from penstock.settings import Settings
from penstock.store import Store
from penstock.store.records import WorkerInfo
from penstock.transport import inspect
from penstock.transport.residents import Word, words
from penstock.transport.url import connect


@dataclass(frozen=True, slots=True)
class Place:
    """One model on one live worker that serves it."""

    worker: str
    device: str | None
    #: ``loaded``, ``loading``, ``not loaded``, or ``unknown`` when the broker does not say.
    state: str
    version: str = ""
    #: Bytes of the device that its models take and may take; ``None`` where the worker holds all it serves.
    used: int | None = None
    memory: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One worker that has registered."""

    #: Of this life of its process.
    instance: str
    name: str
    pool: str
    device: str | None
    #: Of penstock; ``None``: an old one.
    release: str | None
    pid: int | None
    #: ``host:port`` of its metrics and probes; empty without.
    metrics: str
    #: What it serves, by model.
    models: Mapping[str, Place]
    served: Mapping[str, Served]
    #: The digests of the graphs of its pipelines.
    graphs: Mapping[str, str]
    #: How old it is, how long it has been silent, and how long its lease lasts; negative: it is over. Seconds.
    age_s: float
    silent_s: float
    lease_s: float
    #: Whether it is loaded and does not consume.
    parked: bool = False
    #: The slot that it was started for.
    slot: str | None = None
    #: Messages that it has claimed and not acknowledged; ``None``: nobody has asked, or the broker is away.
    holds: int | None = None
    #: The lane that it keeps to, as long as others do the other; empty: it is parked; ``None``: it does both.
    lane: str | None = None

    @property
    def live(self) -> bool:
        """Whether its lease lasts."""
        return self.lease_s > 0

    @property
    def busy(self) -> bool | None:
        """Whether it has anything to do; ``None``: not known."""
        return None if self.holds is None else self.holds > 0


@dataclass(frozen=True, slots=True)
class Fleet:
    """All workers, by name; those whose lease is over, and that nobody has taken away yet, too."""

    workers: Sequence[Worker] = field(default_factory=tuple)

    @property
    def live(self) -> list[Worker]:
        """Those that live."""
        return [worker for worker in self.workers if worker.live]

    @property
    def taking(self) -> Fleet:
        """Of those that live, those that take jobs: a parked one does when it is woken."""
        return Fleet([worker for worker in self.live if not worker.parked])

    @property
    def pools(self) -> dict[str, list[Worker]]:
        """Those that live, by pool."""
        found: dict[str, list[Worker]] = {}
        for worker in self.live:
            found.setdefault(worker.pool, []).append(worker)
        return dict(sorted(found.items()))

    @property
    def served(self) -> dict[str, list[Served]]:
        """What live workers announced, by model."""
        found: dict[str, list[Served]] = {}
        for worker in self.live:
            for model, served in worker.served.items():
                found.setdefault(model, []).append(served)
        return found

    @property
    def places(self) -> dict[str, list[Place]]:
        """Where each model is: one place for each live worker that serves it."""
        found: dict[str, list[Place]] = {}
        for worker in self.live:
            for model, place in worker.models.items():
                found.setdefault(model, []).append(place)
        return found

    @property
    def namesakes(self) -> dict[str, int]:
        """Names that several live workers have, and how many."""
        return {name: n for name, n in Counter(worker.name for worker in self.live).items() if n > 1}

    def serving(self, name: str) -> list[Worker]:
        """The live workers that serve a model, or the version of it that ``name`` asks for."""
        model, version = split_name(name)
        return [
            worker for worker in self.live if model in worker.served and version in (None, worker.served[model].version)
        ]


def registered(store: Store, *, now: float) -> Fleet:
    """What SQL says. Of workers that cannot hold all their models it is unknown what they have loaded."""
    return Fleet([_worker(row, {}, None, now) for row in store.workers()])


def look(store: Store, settings: Settings, *, now: float, busy: bool = False) -> Fleet:
    """With what the broker says: where models are loaded, and who is ``busy``.

    The broker is asked only where SQL leaves something open. One that is away leaves it so, and is no error.
    """
    rows = store.workers()
    said, holds = None, None
    if busy or any(row.info.get("memory") for row in rows if row.lease_until > now):
        client = connect(settings.broker)
        try:
            said = words(client, settings.namespace)
            holds = inspect.held(client, settings.namespace) if busy else None
        except (redis.RedisError, OSError):
            pass
        finally:
            client.close()
    return Fleet([_worker(row, said or {}, holds, now) for row in rows])


def process_of(instance: str) -> str:
    """``host:pid`` of a worker's instance (``name@host:pid:…``), or of a consumer at the broker (``host:pid:…``)."""
    return instance.rpartition("@")[2].rpartition(":")[0]


def _worker(row: WorkerInfo, said: Mapping[str, Word], holds: Mapping[str, int] | None, now: float) -> Worker:
    info = row.info
    served = {model: Served(row.name, about) for model, about in info.get("models", {}).items()}
    word = said.get(row.instance)
    return Worker(
        instance=row.instance,
        name=row.name,
        pool=row.pool,
        device=info.get("device"),
        release=info.get("version"),
        pid=info.get("pid"),
        metrics=info.get("metrics") or "",
        models={model: _place(row, model, one.version, word) for model, one in served.items()},
        served=served,
        graphs=info.get("graphs", {}),
        age_s=now - row.started_at,
        silent_s=now - row.seen_at,
        lease_s=row.lease_until - now,
        parked=bool(info.get("parked")),
        slot=info.get("slot"),
        holds=None if holds is None else _held_by(row, holds),
        lane=row.lane,
    )


def _place(row: WorkerInfo, model: str, version: str, word: Word | None) -> Place:
    device, memory = row.info.get("device"), row.info.get("memory")
    if memory is None:
        return Place(row.name, device, "loaded", version)
    if word is None:
        return Place(row.name, device, "unknown", version, None, memory)
    state = "loaded" if model in word.models else "loading" if word.loading == model else "not loaded"
    return Place(row.name, device, state, version, word.used, memory)


def _held_by(row: WorkerInfo, holds: Mapping[str, int]) -> int:
    host = row.info.get("host")  # earlier releases do not say it
    mine = f"{host}:{row.info.get('pid')}" if host else process_of(row.instance)
    return sum(count for consumer, count in holds.items() if process_of(consumer) == mine)

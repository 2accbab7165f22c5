"""How long a turn of the autoscaler is, with many workers in many pools: the daemon's own turn, on real servers.

The workers are rows, and messages that consumers hold at the broker; nobody is behind them. The backend starts nothing:
a machine has no room for so many.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from benchmarks.elasticground import Plan, Site
from benchmarks.live import Setting
from benchmarks.parts import Part

from penstock import Client
from penstock.autoscaler.backends.base import Realised
from penstock.autoscaler.daemon import Autoscaler
from penstock.lane import Lane, queue_name
from penstock.settings import PoolSettings, Settings
from penstock.store import Store
from penstock.store.elastic import AUTOSCALER, NewSlot, Slot, Term
from penstock.store.records import Latency
from penstock.transport import keys, work

#: A leader that fills the rows; the autoscaler that is measured comes after it.
BEFORE = "the benchmark"
#: What a model's batches take: 10 ms and 1 ms a job.
LINE = {"alpha": 0.01, "beta": 0.001, "seen": 100, "largest": 1.0}


class Still:
    """A backend that finds all as it is."""

    name = "local"

    def realise(self, slots: Sequence[Slot], *, term: Term) -> Realised:
        """Nothing is missing."""
        return Realised()

    def room(self, pool: str, slots: Sequence[Slot]) -> int | None:
        """There is no end of it."""
        return None

    def close(self) -> None:
        """Nothing is held."""


def tick(folder: Path, plan: Plan) -> Part:
    """Turns of an autoscaler that leads, with work in all pools; and what of it is waiting for servers."""
    part = Part()
    setting = Setting(name="tick", alpha_ms=0, beta_ms=0, target_ms=500)
    site = Site(folder, setting, models="benchmarks.elasticmodels", pool={})
    try:
        site.start()
        settings = _settings(site, plan)
        with site.store() as store:
            _fill(site, settings, store, plan)
            scaler = Autoscaler(settings, store, Still(), room=lambda pools: dict.fromkeys(pools, 1000), tells=False)
            spent: dict[str, float] = {}
            spent_cpu: dict[str, float] = {}
            _time_servers(scaler, spent, spent_cpu)
            whole, own, parts, decided = [], [], [], []
            within: dict[str, float] = {}
            scaler._decide = _timed(scaler._decide, within, spent_cpu)  # type: ignore[method-assign]
            for number in range(plan.ticks + 5):
                spent.clear()
                spent_cpu.clear()
                within.clear()
                began, cpu = time.perf_counter(), time.thread_time()
                leads = scaler.turn()
                took, cpu = time.perf_counter() - began, time.thread_time() - cpu
                assert leads or number == 0
                if number >= 5:  # the first ones learn what there is
                    whole.append(took)
                    own.append(cpu - sum(spent_cpu.values()))
                    parts.append(dict(spent))
                    decided.append(within["own"])
            workers = sum(pool.fleet.ready for pool in scaler.pools.by_name.values())
            scaler.stop()
    finally:
        site.stop()
    part.tell("tick", "pools that were decided about", len(scaler.pools.by_name))
    part.tell("tick", "ready workers", workers)
    for name in sorted({name for each in parts for name in each}):
        part.tell("tick", f"waits for servers: {name}, median", _ms([each.get(name, 0.0) for each in parts]), "ms")
    part.tell(
        "tick",
        "a whole turn, servers included, median",
        _ms(whole),
        "ms",
        p99=1e3 * sorted(whole)[len(whole) * 99 // 100],
    )
    part.tell("tick", "the same without them, median", _ms(own), "ms")
    part.tell("tick", "the same without them, shortest", 1e3 * min(own), "ms")
    part.tell("tick", "decisions of all pools, without servers, median", _ms(decided), "ms")
    name = f"a turn at {workers} workers and {plan.pools} pools"
    part.at_most(f"{name}: decisions of all pools, ms", _ms(decided), 10.0)
    part.at_most(f"{name}: all of its own work, ms", _ms(own), 10.0)
    part.at_most(f"{name}, servers included, ms", _ms(whole), 10.0, judged=False)
    return part


def _ms(values: Sequence[float]) -> float:
    return 1e3 * statistics.median(values)


def _settings(site: Site, plan: Plan) -> Settings:
    each = -(-plan.workers // plan.pools)
    pools = {f"p{n}": PoolSettings(models=[f"m{n}"], min=each, max=2 * each) for n in range(plan.pools)}
    return site.settings().model_copy(update={"pools": pools})


def _fill(site: Site, settings: Settings, store: Store, plan: Plan) -> None:
    """Rows of ready workers, their announcements, what is learned of their models, and messages: ready and held."""
    now = time.time()
    models = {f"m{n}": {"version": "1", "pool": f"p{n}", "max_size": 1} for n in range(plan.pools)}
    store.register_worker("w@h:1:x", name="w", pool="default", lease_until=now + 3600, now=now, info={"models": models})
    store.keep_latencies([Latency(name, "1", "cpu", "", LINE) for name in models], now=now)
    term = store.elastic.lead(AUTOSCALER, BEFORE, store.elastic.leaderships())
    assert term is not None
    each = -(-plan.workers // plan.pools)
    slots = [NewSlot(pool=f"p{n % plan.pools}") for n in range(each * plan.pools)]
    store.elastic.change(term, add=slots, now=now, reason="the benchmark has so many")
    rows = [
        (f"w{n}@host{n}:{n}:x", now, json.dumps({"host": f"host{n}", "pid": n, "born_at": now}), slot.id)
        for n, slot in enumerate(slots)
    ]
    site.write("UPDATE penstock_slot SET worker = ?, ready_at = ?, fence = 'f', place = ? WHERE id = ?", rows)
    store.elastic.resign(term)
    with Client(site.settings()) as client:
        for name in models:
            client.enqueue_many(name, [1] * 10, lane="interactive")
    with site.broker_client() as client:
        namespace = settings.namespace
        for number in range(len(slots)):
            queue = queue_name(namespace, f"m{number % plan.pools}", Lane.INTERACTIVE)
            consumer = f"host{number}:{number}:x"
            client.zadd(keys.consumers(namespace), {consumer: now + 3600})
            client.hset(f"{keys.unacked_prefix(namespace)}{consumer}", mapping={"1": f"{queue}\0{{}}"})


def _time_servers(scaler: Autoscaler, spent: dict[str, float], cpu: dict[str, float]) -> None:
    """Have the time that is spent waiting for servers added up, by what is asked."""

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with _adding(spent, cpu, name):
                return call(*args, **kwargs)

        return wrapped

    client, database = scaler._client, scaler._store
    client.execute_command = timed("broker, told", client.execute_command)  # type: ignore[method-assign]
    work.WORK = timed("broker, look", work.WORK)  # type: ignore[misc, assignment]
    for name in ("beat", "slots", "change", "changed", "record", "leaderships", "lead"):
        setattr(database.elastic, name, timed(f"database, {name}", getattr(database.elastic, name)))
    for name in ("deadlines", "models", "workers", "latencies"):
        setattr(database, name, timed(f"database, {name}", getattr(database, name)))


def _timed(call: Callable[..., Any], within: dict[str, float], servers: dict[str, float]) -> Callable[..., Any]:
    """Have the processor time of calls added up, without what servers are asked meanwhile."""

    @wraps(call)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        began, asked = time.thread_time(), sum(servers.values())
        try:
            return call(*args, **kwargs)
        finally:
            took = time.thread_time() - began - (sum(servers.values()) - asked)
            within["own"] = within.get("own", 0.0) + took

    return wrapped


@contextmanager
def _adding(spent: dict[str, float], cpu: dict[str, float], name: str) -> Iterator[None]:
    began, cpu_began = time.perf_counter(), time.thread_time()
    try:
        yield
    finally:
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - began
        cpu[name] = cpu.get(name, 0.0) + time.thread_time() - cpu_began

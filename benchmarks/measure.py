"""One session: a side with a fresh state is started, measured in a fixed order, and stopped.

The order matters: round trips first, on an idle worker; then the worker is paused (SIGSTOP, which treats both sides
alike) while jobs are submitted; then the producers leave, the worker runs on, and the backlog is drained.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.processes import cpu_s, eventually
from benchmarks.sides import CelerySide, Side

#: Longest wait for a worker that is starting, and for a drain.
START_TIMEOUT_S, DRAIN_TIMEOUT_S = 60.0, 300.0

#: How often a drain is looked at, seconds. The end is taken from the side's own record, not from these looks.
LOOK_EVERY_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured."""

    jobs: int
    stock_jobs: int
    singles: int
    round_trips: int
    warm: int


Values = dict[str, float]


def session(side: Side, plan: Plan) -> Values:
    """Measure one side once: metric -> value. The side is closed in the end."""
    try:
        side.start()
        values: Values = {}
        producer = side.producer()
        total = plan.warm + plan.round_trips
        values |= _latency("round_trip", producer.ask("round_trip", plan.round_trips, warm=plan.warm))
        eventually(lambda: side.settled() == total, "round trips to be acknowledged", timeout_s=START_TIMEOUT_S)
        assert side.worker is not None
        side.worker.pause()
        producers = [producer]
        if isinstance(side, CelerySide):
            total += _submit_stock(side, producer, producers, plan, values)
        else:
            total += _submit(side, producer, plan, values)
        for each in producers:
            each.close()
        values |= drain(side, total - plan.warm - plan.round_trips, total)
        return values
    finally:
        side.close()


def _submit(side: Side, producer: Any, plan: Plan, values: Values) -> int:
    values |= _latency("single", producer.ask("single", plan.singles, warm=plan.warm))
    before = {role: cpu_s(pids) for role, pids in side.pids().items() if role in ("redis", "postgres")}
    answer = producer.ask("many", plan.jobs)
    values["many_us"] = answer["wall_s"] / plan.jobs * 1e6
    values["cpu.submit.producer_us"] = answer["cpu_s"] / plan.jobs * 1e6
    for role, seconds in before.items():
        values[f"cpu.submit.{role}_us"] = (cpu_s(side.pids()[role]) - seconds) / plan.jobs * 1e6
    return plan.warm + plan.singles + plan.jobs


def _submit_stock(side: CelerySide, producer: Any, producers: list[Any], plan: Plan, values: Values) -> int:
    count = 0
    for database, url in _databases(side).items():
        durable = side.producer(BENCH_DATABASE_URL=url)
        producers.append(durable)
        values |= _latency(f"single_{database}", durable.ask("single", plan.singles, warm=plan.warm))
        count += plan.warm + plan.singles
    redis_before = cpu_s(side.pids()["redis"])
    answer = producer.ask("many", plan.stock_jobs, warm=0)
    values["many_us"] = answer["wall_s"] / plan.stock_jobs * 1e6
    values["cpu.submit.producer_us"] = answer["cpu_s"] / plan.stock_jobs * 1e6
    values["cpu.submit.redis_us"] = (cpu_s(side.pids()["redis"]) - redis_before) / plan.stock_jobs * 1e6
    batched = max(1, plan.stock_jobs // 2)
    answer = producer.ask("kombu_batch", batched)
    values["kombu_batch_us"] = answer["wall_s"] / batched * 1e6
    return count + plan.stock_jobs + batched


def _databases(side: CelerySide) -> dict[str, str]:
    name = side.folder.name.replace("-", "_")
    return {
        "sqlite": f"sqlite:///{side.folder / 'app.db'}",
        "postgres": side.servers.postgres.create(f"app_{name}"),
    }


def drain(side: Side, jobs: int, total: int) -> Values:
    """Let the paused worker run and wait until it has settled ``jobs`` (``total`` with what it did before)."""
    assert side.worker is not None
    roles = side.pids()
    before = {role: cpu_s(pids) for role, pids in roles.items()}
    started = time.time()
    side.worker.resume()

    def finished() -> bool:
        side.check()
        return not side.waiting() and side.settled() == total

    eventually(finished, f"{side.name} to drain {jobs} jobs", timeout_s=DRAIN_TIMEOUT_S, every_s=LOOK_EVERY_S)
    spent = {role: (cpu_s(pids) - before[role]) / jobs * 1e6 for role, pids in roles.items()}
    values = {"drain_per_s": jobs / (side.last_settled_at() - started)}
    return values | {f"cpu.drain.{role}_us": value for role, value in spent.items()}


def calibrate(side: CelerySide, plan: Plan) -> float:
    """The drain rate of one way to run stock Celery, jobs per second. The side is closed in the end."""
    try:
        side.start()
        producer = side.producer()
        producer.ask("round_trip", plan.warm)
        eventually(lambda: side.settled() == plan.warm, "warm-up to be acknowledged", timeout_s=START_TIMEOUT_S)
        assert side.worker is not None
        side.worker.pause()
        producer.ask("kombu_batch", plan.stock_jobs)
        producer.close()
        return drain(side, plan.stock_jobs, plan.stock_jobs + plan.warm)["drain_per_s"]
    finally:
        side.close()


def _latency(name: str, answer: dict[str, Any]) -> Values:
    calls = sorted(answer["calls_us"])
    return {
        f"{name}_mean_us": statistics.fmean(calls),
        f"{name}_p50_us": percentile(calls, 50),
        f"{name}_p95_us": percentile(calls, 95),
        f"{name}_cpu_us": answer["cpu_s"] / len(calls) * 1e6,
    }


def percentile(ordered: list[float], percent: float) -> float:
    """The nearest-rank percentile of an ordered, non-empty list."""
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]

"""Leases of workers. A worker without one is dead to the others: its jobs are rescued, its outcomes refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from penstock.store.engine import Database, Survives
from penstock.store.records import Latency, WorkerInfo
from penstock.store.runs.plans import digest_of
from penstock.store.sql import insert_sql

_REGISTER = """
    INSERT INTO penstock_worker (instance, name, pool, started_at, seen_at, lease_until, info, versions, lane)
    VALUES (:instance, :name, :pool, :now, :now, :lease_until, :info, :versions, :lane)
    ON CONFLICT (instance) DO UPDATE SET seen_at = :now, lease_until = :lease_until, info = :info,
        versions = :versions, lane = :lane"""
_ANNOUNCE = insert_sql(
    "penstock_model",
    ["name", "info", "seen_at"],
    "ON CONFLICT (name) DO UPDATE SET info = excluded.info, seen_at = excluded.seen_at",
)
_ANNOUNCE_PIPELINES = insert_sql(
    "penstock_pipeline",
    ["name", "graph", "info", "seen_at"],
    "ON CONFLICT (name) DO UPDATE SET graph = excluded.graph, info = excluded.info, seen_at = excluded.seen_at",
)
_KEEP_LATENCIES = insert_sql(
    "penstock_latency",
    ["model", "version", "device", "key", "state", "updated_at"],
    "ON CONFLICT (model, version, device, key) DO UPDATE SET state = excluded.state, updated_at = excluded.updated_at",
)
_LATENCIES = "SELECT model, version, device, key, state FROM penstock_latency ORDER BY model, version, device, key"
_MODELS = "SELECT name, info FROM penstock_model ORDER BY name"
_PIPELINES = "SELECT name, graph, info FROM penstock_pipeline ORDER BY name"
_HEARTBEAT = (
    "UPDATE penstock_worker SET seen_at = :now, lease_until = :lease_until, lane = :lane WHERE instance = :instance"
)
#: Few rows, however many workers: those of one kind serve the same.
_TAKING = """
    SELECT DISTINCT versions FROM penstock_worker
    WHERE instance <> :instance AND lease_until > :now AND versions IS NOT NULL AND (lane IS NULL OR lane = :lane)"""
_LIVE = "SELECT info FROM penstock_worker WHERE lease_until > :now"
_UNREGISTER = "DELETE FROM penstock_worker WHERE instance = :instance"
_ALL = (
    "SELECT instance, name, pool, started_at, seen_at, lease_until, info, lane FROM penstock_worker"
    " ORDER BY name, instance"
)


def register(
    db: Database,
    instance: str,
    *,
    name: str,
    pool: str,
    lease_until: float,
    now: float,
    info: dict[str, Any],
    lane: str | None = None,
) -> None:
    """See ``Store.register_worker``."""
    values = {
        "instance": instance,
        "name": name,
        "pool": pool,
        "lease_until": lease_until,
        "now": now,
        "lane": lane,
        # Without the pipelines: who asks for workers, which is often, does not need their graphs.
        "info": msgspec.json.encode(_without_graphs(info)).decode(),
        "versions": msgspec.json.encode(versions_of(info.get("models", {}))).decode(),
    }
    # In one order everywhere, so that workers that start together do not deadlock.
    models = _models_rows(info.get("models", {}), now)
    pipelines = _pipelines_rows(info.get("pipelines", {}), now)

    def call() -> None:
        with db.write(Survives.CRASH) as session:
            session.run(_REGISTER, values)
            session.insert(_ANNOUNCE, models)
            session.insert(_ANNOUNCE_PIPELINES, pipelines)

    db.again(call)


def announce(
    db: Database, models: Mapping[str, Mapping[str, Any]], pipelines: Mapping[str, Mapping[str, Any]], *, now: float
) -> None:
    """See ``Store.announce``."""

    def call() -> None:
        with db.write(Survives.CRASH) as session:
            served: set[str] = set()
            for (info,) in session.all(_LIVE, {"now": now}):
                worker = msgspec.json.decode(info)
                served |= {*worker.get("models", {}), *worker.get("graphs", {})}
            session.insert(_ANNOUNCE, [row for row in _models_rows(models, now) if row[0] not in served])
            session.insert(
                _ANNOUNCE_PIPELINES, [row for row in _pipelines_rows(pipelines, now) if row[0] not in served]
            )

    db.again(call)


def _models_rows(models: Mapping[str, Mapping[str, Any]], now: float) -> list[tuple[Any, ...]]:
    return [(name, msgspec.json.encode(about).decode(), now) for name, about in sorted(models.items())]


def _pipelines_rows(pipelines: Mapping[str, Mapping[str, Any]], now: float) -> list[tuple[Any, ...]]:
    return [
        (name, about["graph"], msgspec.json.encode(_without_graph(about)).decode(), now)
        for name, about in sorted(pipelines.items())
    ]


def _without_graphs(info: Mapping[str, Any]) -> dict[str, Any]:
    """With the digests of its pipelines' graphs in their place."""
    graphs = {name: digest_of(about["graph"]) for name, about in info.get("pipelines", {}).items()}
    return {
        **{key: value for key, value in info.items() if key != "pipelines"},
        **({"graphs": graphs} if graphs else {}),
    }


def versions_of(models: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """By model the version that is served, empty where none is declared. PURE."""
    return {name: about["version"] if about.get("declared") else "" for name, about in models.items()}


def _without_graph(about: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in about.items() if key != "graph"}


def heartbeat(db: Database, instance: str, *, lease_until: float, now: float, lane: str | None = None) -> bool:
    """See ``Store.heartbeat``."""
    values = {"instance": instance, "lease_until": lease_until, "now": now, "lane": lane}
    with db.step(Survives.NOTHING) as session:
        return session.run(_HEARTBEAT, values) == 1


def taking(db: Database, lane: str, *, beside: str, now: float) -> list[dict[str, str]]:
    """See ``Store.taking``."""
    with db.read() as session:
        rows = session.all(_TAKING, {"instance": beside, "now": now, "lane": lane})
    return [msgspec.json.decode(versions) for (versions,) in rows]


def unregister(db: Database, instance: str) -> None:
    """See ``Store.unregister_worker``."""
    with db.step(Survives.NOTHING) as session:
        session.run(_UNREGISTER, {"instance": instance})


def models(db: Database) -> dict[str, dict[str, Any]]:
    """See ``Store.models``."""
    with db.read() as session:
        return {name: msgspec.json.decode(info) for name, info in session.all(_MODELS)}


def pipelines(db: Database) -> dict[str, dict[str, Any]]:
    """See ``Store.pipelines``."""
    with db.read() as session:
        return {name: msgspec.json.decode(info) | {"graph": graph} for name, graph, info in session.all(_PIPELINES)}


def keep_latencies(db: Database, lines: Sequence[Latency], *, now: float) -> None:
    """See ``Store.keep_latencies``."""
    # In one order everywhere, so that workers that store at once do not deadlock.
    rows = [
        (*line[:4], msgspec.json.encode(line.state).decode(), now) for line in sorted(lines, key=lambda each: each[:4])
    ]

    def call() -> None:
        with db.write(Survives.NOTHING) as session:
            session.insert(_KEEP_LATENCIES, rows)

    db.again(call)


def latencies(db: Database) -> list[Latency]:
    """See ``Store.latencies``."""
    with db.read() as session:
        return [
            Latency(model, version, device, key, msgspec.json.decode(state))
            for model, version, device, key, state in session.all(_LATENCIES)
        ]


def workers(db: Database) -> list[WorkerInfo]:
    """See ``Store.workers``."""
    with db.read() as session:
        rows = session.all(_ALL)
    return [
        WorkerInfo(
            instance=instance,
            name=name,
            pool=pool,
            started_at=started_at,
            seen_at=seen_at,
            lease_until=lease_until,
            info=msgspec.json.decode(info),
            lane=lane,
        )
        for instance, name, pool, started_at, seen_at, lease_until, info, lane in rows
    ]

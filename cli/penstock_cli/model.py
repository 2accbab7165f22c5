"""``penstock model``: what is served, and by whom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import click
import redis

from penstock.clock import now
from penstock.lane import LANES, queue_name
from penstock.policy.isolation import isolation_bound_s
from penstock.policy.latency import LatencyModel
from penstock.policy.pools import place, want_announced, want_of
from penstock.policy.versions import by_version, warnings
from penstock.registry import unknown_model
from penstock.store.records import Latency
from penstock.transport import usage
from penstock.transport.url import connect
from penstock.views.fleet import look
from penstock_cli import preflight
from penstock_cli.commands import group, pass_app
from penstock_cli.context import App
from penstock_cli.output import dumps
from penstock_cli.params import complete_model

#: Batches that are shorter on average are mostly the machine's noise, seconds: a share of them says nothing.
SHORT_S = 0.002
#: What is shown of what was learned.
LEARNED = ("alpha", "beta", "margin", "mean_s", "error_p50", "error_p99", "error_of")


@group()
def model() -> None:
    """The models that are served.

    They are those that workers announced, now or earlier, and those of PENSTOCK_MODELS.
    """


@model.command("list")
@pass_app
def list_(app: App) -> None:
    """List models, with the workers that serve them.

    Each version that is served has a line. WORKERS are those that take its jobs, and parked ones, which do once woken.

    A worker with PENSTOCK_WORKER__MEMORY loads what does not fit when it is needed.
    """
    preflight.check(app, broker=False)
    known = _models(app)
    found = app.out.rows(
        (row for one in known.values() for row in _each_version(one)),
        id="name",
        drop=("memory", "pool", "loaded", "description"),
        wide=("description",),
        header=("name", "version", "pool", "workers", "loaded", "memory", "description"),
        cells=lambda m: (
            m["name"],
            m["version"],
            m["pool"],
            f"{len(m['workers'])} + {len(m['parked'])} parked" if m["parked"] else len(m["workers"]),
            loaded(m["residency"]),
            size(m["memory"]) if m["memory"] else "-",
            m["description"],
        ),
    )
    if not found:
        app.out.say("no models: name the module that defines one, `penstock up my_models`")
    for one in known.values():
        for warning in one["warnings"]:
            app.out.warn(warning)


@model.command("show")
@click.argument("name", shell_complete=complete_model)
@pass_app
def show(app: App, name: str) -> None:
    """Show one model: its workers, its times, its input's schema.

    The line is the expected time of a batch (of a step, for step-wise models). The prediction error is |actual -
    predicted| / predicted, of batches below 2 ms in ms. Device time is that of the jobs in each lane; a job pays its
    share of its batch.
    """
    preflight.check(app, broker=False)
    found = _models(app)
    if name not in found:
        raise unknown_model(name, found)
    one = found[name]
    one["device_s"] = _device_s(app, name)
    if app.out.json:
        app.out.data(one)
        return
    schema = one["input_schema"]
    app.out.pairs(
        [
            ("name", one["name"]),
            ("description", one["description"]),
            ("version", "\n".join(map(_version, one["versions"])) if one["warnings"] else one["version"]),
            ("pool", one["pool"]),
            ("max batch", one["max_batch"]),
            ("memory", size(one["memory"]) if one["memory"] else None),
            ("workers", "\n".join([*map(_place, one["residency"]), *_parked(one["parked"])]) or "none now"),
            (
                "step time" if one["steps"] else "batch time",
                "\n".join(_line(line, steps=one["steps"]) for line in one["latency"]) or "not measured yet",
            ),
            ("device time", _spent(one["device_s"])),
            ("isolation", f"background adds at most {one['isolation_bound_s'] * 1e3:.4g} ms to an interactive job"),
            ("input", dumps(schema, indent=2) if schema else "any JSON"),
        ]
    )


def _version(one: dict[str, Any]) -> str:
    return f"{one['version']} ({', '.join(one['workers']) or 'none now'})"


def _each_version(one: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What is known of a model, once for each version that is served."""
    for each in one["versions"] or [{"version": one["version"], "workers": [], "parked": []}]:
        residency = [place for place in one["residency"] if place["version"] == each["version"]]
        yield one | each | {"residency": residency}


def loaded(residency: list[dict[str, Any]]) -> str:
    """On how many workers a model is loaded, and what else is to be said of it."""
    count = {state: sum(place["state"] == state for place in residency) for state in ("loaded", "loading", "unknown")}
    text = "?" if count["unknown"] and not count["loaded"] else str(count["loaded"])
    return f"{text} +{count['loading']}" if count["loading"] else text


def size(count: int) -> str:
    """Bytes for a person."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _place(place: dict[str, Any]) -> str:
    text = f"{place['worker']} ({place['device']}): {place['state']}"
    if place["used"] is None or place["memory"] is None:
        return text
    return f"{text}; {size(place['used'])} of {size(place['memory'])} used by models"


def _parked(workers: list[str]) -> list[str]:
    return [f"parked: {', '.join(workers)}"] if workers else []


def _line(line: dict[str, Any], *, steps: bool) -> str:
    key = f" (key {line['key']})" if line["key"] else ""
    unit, things = ("sequence", "steps") if steps else ("unit of cost", "batches")
    text = (
        f"{line['alpha'] * 1e3:.3g} ms + {line['beta'] * 1e3:.3g} ms per {unit} on {line['device']}{key}; "
        f"margin {line['margin']:.2f}; {line['batches']:,} {things}"
    )
    if line["error_p99"] is None:
        return text
    of = f" over the last {line['error_of']}" if line["error_of"] else ""
    return f"{text}; prediction error: {_error(line)}{of}"


def _error(line: dict[str, Any]) -> str:
    """In per cent; of batches that are hardly anything in ms, as if each had taken the mean."""
    median, most, mean_s = line["error_p50"], line["error_p99"], line["mean_s"]
    if mean_s is None or mean_s >= SHORT_S:
        return f"median {median:.1%}, p99 {most:.1%}"
    return f"median {median * mean_s * 1e3:.2g} ms, p99 {most * mean_s * 1e3:.2g} ms"


def _spent(device_s: dict[str, float] | None) -> str:
    if device_s is None:
        return "not known: the broker does not answer"
    return (
        ", ".join(f"{lane} {seconds:,.4g} s" for lane, seconds in device_s.items()) + " since the broker's data began"
    )


def _device_s(app: App, model: str) -> dict[str, float] | None:
    """Device seconds per lane; ``None`` when the broker does not answer: everything else is in SQL."""
    namespace = app.settings.namespace
    queues = {str(lane): queue_name(namespace, model, lane) for lane in LANES}
    client = connect(app.settings.broker)
    try:
        spent = usage.device_s(client, namespace, queues.values())
    except (redis.RedisError, OSError):
        return None
    finally:
        client.close()
    return {lane: spent[queue] for lane, queue in queues.items()}


def _models(app: App) -> dict[str, dict[str, Any]]:
    """What is known of each model. An announcement says what is really served, so it wins."""
    fleet = look(app.store, app.settings, now=now())
    where, all_, taking = fleet.taking.places, fleet.served, fleet.taking.served
    found = _local(app)
    pools = app.settings.served_pools()
    for name, info in app.store.models().items():
        found[name] = _info(
            name,
            info.get("version"),
            info.get("doc"),
            place(want_announced(name, info), pools).pool if pools else info.get("pool"),
            info.get("max_size"),
            info.get("schema"),
            info.get("steps"),
            info.get("memory"),
        )
    learned: dict[tuple[str, str], list[Latency]] = {}
    for line in app.store.latencies():
        learned.setdefault((line.model, line.version), []).append(line)
    for name, one in found.items():
        one["residency"] = [asdict(place) for place in where.get(name, [])]
        one["workers"] = [place["worker"] for place in one["residency"]]
        serving, takers = taking.get(name, ()), set(one["workers"])
        one["versions"] = [
            {
                "version": version,
                "workers": [worker for worker in workers if worker in takers],
                "parked": [worker for worker in workers if worker not in takers],
            }
            for version, workers in by_version(all_.get(name, ())).items()
        ]
        one["parked"] = [worker for version in one["versions"] for worker in version["parked"]]
        one["warnings"] = warnings(name, serving)
        lines = learned.get((name, one["version"]), [])
        one["latency"] = [_learned(line) for line in lines]
        # One item has to run, however long it takes.
        shortest_s = max((LatencyModel.restore(line.state).bound(1.0) for line in lines), default=0.0)
        one["isolation_bound_s"] = max(isolation_bound_s(app.settings.lanes.interactive.target), shortest_s)
    return dict(sorted(found.items()))


def _learned(line: Latency) -> dict[str, Any]:
    state = line.state
    return {
        "device": line.device,
        "key": line.key,
        "batches": int(state["seen"]),
        **{name: state.get(name) for name in LEARNED},
    }


def _local(app: App) -> dict[str, dict[str, Any]]:
    from penstock.codec import codec_of
    from penstock.errors import ConfigError
    from penstock.registry import Registry
    from penstock.stepwise import StepModel

    try:
        registry = Registry.load(app.settings.models)
    except ConfigError as error:
        app.out.warn(error.message)
        return {}
    pools = app.settings.served_pools()
    return {
        cls.name: _info(
            cls.name,
            cls.version,
            cls.describe(),
            place(want_of(cls), pools).pool,
            cls.batching.max_size,
            dict(codec_of(cls).schema()),
            issubclass(cls, StepModel),
            cls.resources.memory_bytes,
        )
        for cls in registry
    }


def _info(
    name: str, version: Any, doc: Any, pool: Any, max_batch: Any, schema: Any, steps: Any, memory: Any
) -> dict[str, Any]:
    return {
        "name": name,
        "description": doc or "",
        "version": str(version or ""),
        "pool": pool or "default",
        "max_batch": max_batch,
        "input_schema": schema or {},
        "steps": bool(steps),
        "memory": memory,
    }

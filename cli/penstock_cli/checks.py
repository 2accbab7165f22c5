"""What ``penstock doctor`` looks at. Each check is bounded in time and raises nothing."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import redis

from penstock import clock
from penstock.errors import PenstockError, Unreachable, install
from penstock.settings import Settings
from penstock.transport.url import connect, unavailable
from penstock_cli.context import App
from penstock_cli.errors import fix_of
from penstock_cli.jobview import seconds
from penstock_cli.servers import shown

OK, WARNING, ERROR = "ok", "warning", "error"

#: Less than this free on the disk of ``home`` is a warning, and an error, bytes.
LOW_DISK_BYTES, FULL_DISK_BYTES = 2**30, 2**24
#: More difference than this between the clocks is a warning, seconds: deadlines and delays compare them.
SKEW_S = 1.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One result: ``status`` is ok, warning or error."""

    name: str
    status: str
    detail: str
    fix: str = ""
    unreachable: bool = False


def findings(app: App) -> Iterator[Finding]:
    """Run every check."""
    settings = app.settings
    checks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        ("up", lambda: _up(settings)),
        ("broker", lambda: _broker(settings)),
        ("database", lambda: _database(app)),
        ("workers", lambda: _workers(app)),
        ("models", lambda: _models(settings)),
        ("dashboard", lambda: _dashboard(settings)),
        ("webhooks", lambda: _webhooks(settings)),
        ("torch", _torch),
        ("disk", lambda: _disk(settings.home)),
    )
    for name, check in checks:
        try:
            yield from check()
        except PenstockError as error:
            yield Finding(name, ERROR, error.message, fix_of(error, app), isinstance(error, Unreachable))
        except Exception as error:  # a check must not end the others
            yield Finding(name, ERROR, f"{type(error).__name__}: {error}")


def _up(settings: Settings) -> Iterator[Finding]:
    from penstock_cli.up.state import running

    state = running(settings.home)
    if state is None:
        yield Finding("up", OK, "`penstock up` does not run here")
    else:
        names = ", ".join(child.name for child in state.children)
        yield Finding("up", OK, f"process {state.pid}: {names}" if state.ready else f"process {state.pid} is starting")


def _broker(settings: Settings) -> Iterator[Finding]:
    if settings.embedded_broker:
        from penstock.transport.embedded import find_server

        yield Finding("broker program", OK, str(find_server()))
    client = connect(settings.broker, timeout_s=1.0)
    try:
        start = clock.monotonic_s()
        client.ping()
        took_s = clock.monotonic_s() - start
        info: dict[str, Any] = dict(client.info())
        at_s, micro_s = client.time()
        skew_s = at_s + micro_s / 1e6 - clock.now()
    except (redis.RedisError, OSError) as error:
        raise unavailable(settings.broker, error) from error
    finally:
        client.close()
    yield Finding(
        "broker", OK, f"{shown(settings.broker)}: Redis {info.get('redis_version', '?')} in {seconds(took_s)}"
    )
    yield from judge_broker(info, skew_s)


def judge_broker(info: dict[str, Any], skew_s: float) -> Iterator[Finding]:
    """What Redis' INFO says about its fitness. PURE."""
    if info.get("aof_enabled"):
        yield Finding("broker durability", OK, "append-only file")
    else:
        yield Finding(
            "broker durability",
            WARNING,
            "no append-only file: a restart loses messages, and the dispatcher publishes them again",
            "redis-cli CONFIG SET appendonly yes",
        )
    policy = info.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        yield Finding("broker memory", OK, f"noeviction, {info.get('used_memory_human', '?')} used")
    else:
        yield Finding(
            "broker memory",
            WARNING,
            f"maxmemory-policy is {policy}: under memory pressure Redis drops messages",
            "redis-cli CONFIG SET maxmemory-policy noeviction",
        )
    if abs(skew_s) > SKEW_S:
        yield Finding(
            "clock",
            WARNING,
            f"Redis' clock is {skew_s:+.1f} s off this machine's",
            "synchronise both with NTP: deadlines and delays compare them",
        )
    else:
        yield Finding("clock", OK, f"Redis' clock differs by {abs(skew_s) * 1000:.0f} ms")


def _database(app: App) -> Iterator[Finding]:
    start = clock.monotonic_s()
    app.store.check()
    took_s = clock.monotonic_s() - start
    import penstock_migrations

    found = penstock_migrations.current(app.settings.database)
    yield Finding("database", OK, f"{shown(app.settings.database)}: schema {found}, in {seconds(took_s)}")


def _workers(app: App) -> Iterator[Finding]:
    workers = app.store.workers()
    at = clock.now()
    live = [worker for worker in workers if worker.lease_until > at]
    for worker in workers:
        if worker.seen_at - at > SKEW_S:
            yield Finding(
                "clock",
                WARNING,
                f"the clock of worker {worker.name} is {worker.seen_at - at:.1f} s ahead of this machine's",
                "synchronise both with NTP: deadlines and delays compare them",
            )
    for worker in live:
        models = ", ".join(worker.info.get("models", {}))
        device = worker.info.get("device", "?")
        yield Finding(
            "worker",
            OK,
            f"{worker.name} (pool {worker.pool}, {device}): {models}; lease {worker.lease_until - at:.0f} s",
        )
    if len(live) < len(workers):
        yield Finding(
            "workers",
            WARNING,
            f"{len(workers) - len(live)} with an expired lease: they died, or their machine is cut off",
            "a dispatcher rescues their jobs: `penstock dispatcher`",
        )
    if not live:
        yield Finding("workers", WARNING, "none is live", "`penstock up my_models` or `penstock worker my_models`")


def _models(settings: Settings) -> Iterator[Finding]:
    from penstock.registry import Registry

    names = sorted(cls.name for cls in Registry.load(settings.models))
    where = f" ({', '.join(settings.models)})" if settings.models else ""
    yield Finding("models", OK, f"importable here{where}: {', '.join(names) or 'none'}")


def _dashboard(settings: Settings) -> Iterator[Finding]:
    if importlib.util.find_spec("flower") is None:
        yield Finding("dashboard", OK, f"Flower is not installed ({install('dashboard')})")
        return
    from penstock.dashboard.guard import check

    check(settings)
    place = f"{settings.dashboard.host}:{settings.dashboard.port}"
    yield Finding("dashboard", OK, f"Flower {version('flower')} is installed; its default address is {place}")


def _webhooks(settings: Settings) -> Iterator[Finding]:
    count = len(settings.webhook.secrets)
    if count:
        yield Finding("webhooks", OK, f"{count} signing key{'s' if count > 1 else ''}")
    elif settings.database_url is None:
        key = settings.home / "webhook.secret"
        if key.exists():
            yield Finding("webhooks", OK, f"signed with the key in {key}")
        else:
            yield Finding("webhooks", OK, f"no signing key yet: the first `penstock up` makes {key}")
    else:
        yield Finding(
            "webhooks",
            WARNING,
            "no signing key: callbacks wait",
            'set PENSTOCK_WEBHOOK__SECRETS, for example ["whsec_…"]',
        )


def _torch() -> Iterator[Finding]:
    try:
        installed = version("torch")
    except PackageNotFoundError:
        yield Finding("torch", OK, f"not installed; for models that use it, {install('worker')}")
        return
    import torch

    if not torch.cuda.is_available():
        yield Finding("torch", OK, f"{installed}, no CUDA device: models run on the CPU")
        return
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        yield Finding(
            "torch", OK, f"{installed}, cuda:{number} {name}: {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        )


def _disk(home: Path) -> Iterator[Finding]:
    place = next(path for path in (home, *home.parents) if path.exists())
    yield judge_disk(shutil.disk_usage(place).free, home)


def judge_disk(free: int, home: Path) -> Finding:
    """What ``free`` bytes on the disk of ``home`` mean: on a full one every submission fails."""
    status = ERROR if free < FULL_DISK_BYTES else WARNING if free < LOW_DISK_BYTES else OK
    detail = f"{free / 2**30:.1f} GiB free for {home}"
    return Finding("disk", status, detail, "" if status == OK else "make room, or set PENSTOCK_HOME to another disk")

"""What ``penstock doctor`` looks at. Each check is bounded in time and raises nothing."""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import redis

from penstock import __version__, clock, private
from penstock.dispatch.reconciler import ALIVE_S
from penstock.errors import (
    BrokerUnavailable,
    ConfigError,
    NamespaceTaken,
    PenstockError,
    SchemaOutdated,
    StoreUnavailable,
    Unreachable,
    install,
)
from penstock.settings import Settings
from penstock.transport import keys
from penstock.transport.refusals import Refused
from penstock.transport.url import connect, unavailable
from penstock.urltext import safe_url
from penstock_cli.context import App
from penstock_cli.errors import fix_of
from penstock_cli.jobview import seconds
from penstock_cli.servers import check_owner
from penstock_cli.serving import fleet
from penstock_cli.stranded import unserved, why

OK, WARNING, ERROR = "ok", "warning", "error"

#: Less than this free on the disk of ``home`` is a warning, and an error, bytes.
LOW_DISK_BYTES, FULL_DISK_BYTES = 2**30, 2**24
#: More difference than this between the clocks is a warning, seconds: deadlines and delays compare them.
SKEW_S = 1.0


#: Why what needs a server is not asked once a line has said what is wrong with it, by the error's code.
_NOT_ASKED = {
    BrokerUnavailable.code: "the broker is away",
    StoreUnavailable.code: "the database is away",
    SchemaOutdated.code: "the database's schema is not up to date",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One result: ``status`` is ok, warning or error."""

    name: str
    status: str
    detail: str
    fix: str = ""
    unreachable: bool = False


def findings(app: App) -> Iterator[Finding]:
    """Run every check. What cannot be checked here (nothing is running, not installed, not configured) has no line."""
    settings = app.settings
    checks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        ("up", lambda: _up(settings)),
        ("broker", lambda: _broker(settings)),
        ("database", lambda: _database(app)),
        ("namespace", lambda: _namespace(app)),
        ("dispatcher", lambda: _dispatcher(settings)),
        ("workers", lambda: _workers(app)),
        ("versions", lambda: _versions(app)),
        ("pools", lambda: _pools(app)),
        ("queues", lambda: _queues(app)),
        ("task results", lambda: _task_results(settings)),
        ("models", lambda: _models(settings)),
        ("dashboard", lambda: _dashboard(settings)),
        ("webhooks", lambda: _webhooks(settings)),
        ("machine", lambda: _machine(app)),
        ("device", lambda: _device(settings)),
        ("disk", lambda: _disk(settings.home)),
        ("home", lambda: _home(settings.home)),
    )
    away: set[str] = set()
    for name, check in checks:
        try:
            yield from check()
        except Unreachable as error:
            if error.code in away and error.code in _NOT_ASKED:
                yield Finding(name, WARNING, f"not asked: {_NOT_ASKED[error.code]}", unreachable=True)
            else:
                yield Finding(name, ERROR, error.message, fix_of(error, app), True)
            away.add(error.code)
        except PenstockError as error:
            yield Finding(name, ERROR, error.message, fix_of(error, app))
        except Exception as error:  # a check must not end the others
            yield Finding(name, ERROR, f"{type(error).__name__}: {error}")


def _up(settings: Settings) -> Iterator[Finding]:
    """Of a ``penstock up`` in this home: whether each of its processes runs."""
    from penstock_cli.up.state import running

    state = running(settings.home)
    if state is None:
        return
    names = ", ".join(child.name for child in state.children)
    gone = ", ".join(child.name for child in state.children if child.process() is None)
    if gone:
        yield Finding(
            "up",
            WARNING,
            f"process {state.pid}: {gone} has ended just now",
            f"it is started again; look into {state.logs}",
        )
    elif not state.ready:
        yield Finding("up", WARNING, f"process {state.pid} is still starting", f"wait, or look into {state.logs}")
    else:
        yield Finding("up", OK, f"process {state.pid}; running: {names}")


@contextmanager
def _connected(settings: Settings) -> Iterator[redis.Redis]:
    client = connect(settings.broker, timeout_s=1.0)
    try:
        yield client
    except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
        raise unavailable(settings.broker, error) from error
    finally:
        client.close()


def _broker(settings: Settings) -> Iterator[Finding]:
    with _connected(settings) as client:
        client.ping()  # the first one connects
        start = clock.monotonic_s()
        client.ping()
        took_s = clock.monotonic_s() - start
        info: dict[str, Any] = dict(client.info())
        at_s, micro_s = client.time()
        skew_s = at_s + micro_s / 1e6 - clock.now()
        refused = _refused(client, keys.doctor(settings.namespace))
    yield Finding(
        "broker",
        OK,
        f"{safe_url(settings.broker)}: Redis {info.get('redis_version', '?')} answers in {seconds(took_s)}",
    )
    if refused is None:
        yield Finding("broker writes", OK, "a key was written, read and removed")
    else:
        yield Finding(
            "broker writes",
            ERROR,
            f"Redis refuses to be written: {refused}",
            "name the primary, not a replica, in PENSTOCK_BROKER_URL; give it memory and disk, and the user its rights",
        )
    yield from judge_broker(info, skew_s)


def _refused(client: redis.Redis, key: str) -> str | None:
    """Why a key cannot be written and read; ``None`` when it can."""
    try:
        client.set(key, "x", ex=10)
        value = client.get(key)
        client.delete(key)
    except (redis.ResponseError, Refused) as error:
        return str(error)
    return None if value == b"x" else "what was written is not what is read"


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

    found = penstock_migrations.verify(app.settings.database)
    # An UPDATE of no row: it needs the right to write, a server that is no replica, and SQLite's lock.
    app.store.heartbeat("penstock doctor", lease_until=0.0, now=0.0)
    yield Finding(
        "database", OK, f"{safe_url(app.settings.database)}: schema {found}, can be written; {seconds(took_s)}"
    )


def _namespace(app: App) -> Iterator[Finding]:
    """Whether broker and database belong together; silent while one of them is away, which is told above."""
    try:
        check_owner(app.settings, app.store)
    except NamespaceTaken:
        raise
    except Unreachable:
        return
    yield Finding("namespace", OK, f"{app.settings.namespace!r} at the broker is this database's, or free")


def _dispatcher(settings: Settings) -> Iterator[Finding]:
    with _connected(settings) as client:
        sign: Any = client.get(keys.dispatcher(settings.namespace))
    if sign is None:
        yield Finding(
            "dispatcher",
            WARNING,
            f"none has been heard of for {ALIVE_S:g} s: nothing is retried, rescued, expired or called back",
            "`penstock up` runs one; alone, `penstock dispatcher`",
        )
        return
    try:
        about: dict[str, Any] = dict(json.loads(sign))
    except (ValueError, TypeError, RecursionError):
        about = {}
    detail = f"process {about.get('pid', '?')} on {about.get('host', '?')} lives"
    yield from _same_version("dispatcher", detail, about.get("version"))


def _same_version(name: str, detail: str, version: str | None) -> Iterator[Finding]:
    if version == __version__:
        yield Finding(name, OK, f"{detail}, penstock {version}")
    else:
        yield Finding(
            name,
            WARNING,
            f"{detail}, penstock {version or 'of an older version'}; here it is {__version__}",
            "install the same version everywhere, and start it again",
        )


def _workers(app: App) -> Iterator[Finding]:
    all_, live = (workers := fleet(app)).workers, workers.live
    for worker in all_:
        if -worker.silent_s > SKEW_S:
            yield Finding(
                "clock",
                WARNING,
                f"the clock of worker {worker.name} is {-worker.silent_s:.1f} s ahead of this machine's",
                "synchronise both with NTP: deadlines and delays compare them",
            )
    for worker in live:
        about_it = (f"pool {worker.pool}", worker.device or "?", worker.lane, "parked" if worker.parked else "")
        where = ", ".join(filter(None, about_it))
        about = f"{worker.name} ({where}): {', '.join(worker.models)}"
        yield from _same_version("worker", f"{about}; lease {worker.lease_s:.0f} s", worker.release)
    for name, count in workers.namesakes.items():
        yield Finding(
            "workers",
            WARNING,
            f"{count} live ones are called {name}: Flower and remote control take them for one",
            "give each a name: `penstock worker --name NAME`",
        )
    if len(live) < len(all_):
        yield Finding(
            "workers",
            WARNING,
            f"{len(all_) - len(live)} with an expired lease: they died, or their machine is cut off",
            "a dispatcher rescues their jobs: `penstock dispatcher`",
        )
    if not live:
        yield Finding("workers", WARNING, "none is live", "`penstock up my_models` or `penstock worker my_models`")


def _versions(app: App) -> Iterator[Finding]:
    from penstock_cli.checkversions import check

    for detail, fix in check(app):
        yield Finding("versions", WARNING, detail, fix)


def _pools(app: App) -> Iterator[Finding]:
    from penstock_cli.checkpools import check

    for detail, fix in check(app):
        yield Finding("pools", WARNING, detail, fix)


def _queues(app: App) -> Iterator[Finding]:
    """Whether somebody consumes each queue that holds messages, those of plain Celery tasks included."""
    stray = unserved(app)
    for queue, count in stray.items():
        messages = f"{count:,} message{'s' if count > 1 else ''} in {queue}"
        yield Finding("queues", WARNING, f"{messages}: no worker consumes that queue", why(queue, app))
    if not stray:
        yield Finding("queues", OK, "every queue that holds messages is consumed")


def _task_results(settings: Settings) -> Iterator[Finding]:
    """Of plain tasks in runs: whether a dispatcher that runs here could read them, if it is told where they are."""
    if settings.celery.task_result_url is None:
        return
    from penstock.dispatch.tasks.results import Results

    results = Results(settings)
    try:
        yield Finding("task results", OK, f"{results.check()} can be read")
    except ConfigError as error:
        yield Finding("task results", WARNING, error.message, error.fix)
    finally:
        results.close()


def _models(settings: Settings) -> Iterator[Finding]:
    """Those of PENSTOCK_MODELS, pipelines included: whether they can be imported here."""
    if not settings.models:
        return
    from penstock.registry import Registry

    registry = Registry.load(settings.models)
    names = sorted([*(cls.name for cls in registry), *registry.pipelines])
    yield Finding("models", OK, f"{', '.join(settings.models)} can be imported: {', '.join(names)}")


def _dashboard(settings: Settings) -> Iterator[Finding]:
    """Whether its settings are safe, and whether that of ``penstock up`` answers."""
    if importlib.util.find_spec("flower") is None:
        return
    from penstock.dashboard.guard import check
    from penstock_cli.up.ready import dashboard_answers
    from penstock_cli.up.state import running

    check(settings)
    state = running(settings.home)
    if state is None or state.dashboard is None:
        return
    if dashboard_answers(state.dashboard):
        yield Finding("dashboard", OK, f"{state.dashboard} answers")
    else:
        yield Finding(
            "dashboard", WARNING, f"{state.dashboard} does not answer", f"look into {state.logs}/dashboard.log"
        )


def _webhooks(settings: Settings) -> Iterator[Finding]:
    """The signing keys: one that is there signs, and its signature is valid."""
    own = settings.home / "webhook.secret"
    if not settings.webhook.secrets:
        if settings.database_url is not None:
            yield Finding(
                "webhooks",
                WARNING,
                "no signing key: callbacks wait",
                'set PENSTOCK_WEBHOOK__SECRETS, for example ["whsec_…"]',
            )
            return
        if not own.exists():
            return  # the first `penstock up` makes it
    from penstock.webhooks import load_signer

    signer = load_signer(settings)
    signer.verify(b"{}", signer.sign("msg_doctor", "{}", at=clock.now()))
    count = len(settings.webhook.secrets)
    which = f"{count} signing key{'s' if count > 1 else ''}" if count else f"the key in {own}"
    yield Finding("webhooks", OK, f"signed and verified with {which}")


def _machine(app: App) -> Iterator[Finding]:
    from penstock_cli.checkmachine import check, started

    detail, fix = check(app.settings, started(app))
    yield Finding("machine", WARNING if fix else OK, detail, fix)


def _device(settings: Settings) -> Iterator[Finding]:
    """What a worker would use here: whether torch computes on it. Without torch there is nothing to try."""
    wanted = settings.worker.device
    if importlib.util.find_spec("torch") is None:
        if wanted and wanted != "cpu":
            yield Finding("device", ERROR, f"worker.device is {wanted}, and torch is not installed", install("worker"))
        return
    import torch

    from penstock_worker.execute.device import choose_device

    device = choose_device(wanted)
    try:
        ones = torch.ones(8, device=device)
        if float((ones + ones).sum()) != 16.0:
            raise ArithmeticError("1 + 1 is not 2 there")
        free = _memory(device)
    except Exception as error:  # whatever torch, a driver or a name of no device raises
        reason = str(error).strip().splitlines()[:1]
        yield Finding(
            "device",
            ERROR,
            f"torch {version('torch')} cannot compute on {device}: {''.join(reason)}",
            "set PENSTOCK_WORKER__DEVICE to one that there is, such as cpu; `nvidia-smi` must show a CUDA device",
        )
        return
    yield Finding("device", OK, f"torch {version('torch')} computes on {device}{free}")


def _memory(device: str) -> str:
    if not device.startswith("cuda"):
        return ""
    import torch

    free, total = torch.cuda.mem_get_info(device)
    return f", {torch.cuda.get_device_name(device)}: {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"


def _home(home: Path) -> Iterator[Finding]:
    """Whether others can read or replace what is in it."""
    if not home.exists():
        return
    places = private.open_places(home)
    if not places:
        yield Finding("home", OK, f"nobody else can read or write {home}")
        return
    more = f" (and {len(places) - 3} more)" if len(places) > 3 else ""
    yield Finding(
        "home",
        ERROR if any("read" not in place for place in places) else WARNING,
        f"{'; '.join(places[:3])}{more}",
        f"give penstock a folder of its own (PENSTOCK_HOME) that only its user may enter: chmod -R go= {home}",
    )


def _disk(home: Path) -> Iterator[Finding]:
    place = next(path for path in (home, *home.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        yield Finding(
            "disk", ERROR, f"{place} cannot be written: {error.strerror}", "set PENSTOCK_HOME to a folder that can be"
        )
        return
    yield judge_disk(shutil.disk_usage(place).free, home)


def judge_disk(free: int, home: Path) -> Finding:
    """What ``free`` bytes on the disk of ``home`` mean: on a full one every submission fails."""
    status = ERROR if free < FULL_DISK_BYTES else WARNING if free < LOW_DISK_BYTES else OK
    detail = f"{free / 2**30:.1f} GiB free for {home}"
    return Finding("disk", status, detail, "" if status == OK else "make room, or set PENSTOCK_HOME to another disk")

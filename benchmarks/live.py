"""The ground of the live benchmarks: a whole penstock on this machine, synthetic traffic, and the search for its limit.

A ``Stack`` is an embedded Redis, a SQLite file, a dispatcher and workers that serve ``benchmarks.devices``, each a real
process. ``Stack.offer`` runs the load generator in a process of its own and returns its report (``loadgen.tally``).
``highest_rate`` bisects for the highest Poisson rate at which 99 % are answered within the target.

Several stacks can be up at once, so that variants are measured in turns: all but the one that is measured are stopped
in their tracks (``paused``).
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.processes import BenchmarkError, Child, environment, eventually, python

from penstock.errors import ConfigError
from penstock.settings import Settings
from penstock.store import Store
from penstock.transport.embedded import EmbeddedBroker

#: The share of requests that must be answered within the target for a rate to be held.
SHARE = 0.99
#: Waits for processes that start, and for what an overload has left behind, seconds.
START_TIMEOUT_S, DRAIN_TIMEOUT_S = 60.0, 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A device and its service level. A batch takes ``alpha_ms + beta_ms * cost``."""

    name: str
    alpha_ms: float
    beta_ms: float
    target_ms: float
    model: str = "device"
    cost: str = "one"
    max_size: int = 64
    #: Width and depth of the real model.
    layers: tuple[int, int] = (2048, 8)

    @property
    def target_s(self) -> float:
        """The target, seconds."""
        return self.target_ms / 1e3

    def capacity(self, size: int | None = None) -> float:
        """Requests of mean cost 1 per second that the device can do in batches of ``size``."""
        size = size or self.max_size
        return size / (self.alpha_ms + self.beta_ms * size) * 1e3

    def environ(self) -> dict[str, str]:
        """What a worker's ``benchmarks.devices`` reads."""
        return {
            "BENCH_ALPHA_MS": str(self.alpha_ms),
            "BENCH_BETA_MS": str(self.beta_ms),
            "BENCH_MAX_SIZE": str(self.max_size),
            "BENCH_MLP_WIDTH": str(self.layers[0]),
            "BENCH_MLP_DEPTH": str(self.layers[1]),
            "PENSTOCK_LANES": json.dumps({"interactive": {"target": self.target_s}}),
        }


#: Three devices, the first of them with a heavy-tailed cost too, and a small real model of two sizes: of the larger one
#: its own time is the limit, of the lighter one the machine, which all parts share with it. For these alpha and
#: beta are only where the search begins.
SETTINGS = {
    setting.name: setting
    for setting in (
        Setting(name="gpu", alpha_ms=8, beta_ms=0.25, target_ms=100),
        Setting(name="quick", alpha_ms=2, beta_ms=0.1, target_ms=25),
        Setting(name="slow", alpha_ms=40, beta_ms=4, target_ms=400),
        Setting(name="tail", alpha_ms=8, beta_ms=0.25, target_ms=100, model="costly", cost="pareto"),
        Setting(name="mlp", alpha_ms=8, beta_ms=0.75, target_ms=100, model="mlp"),
        Setting(name="mlp-light", alpha_ms=1.5, beta_ms=0.25, target_ms=100, model="mlp", layers=(1024, 4)),
    )
}


class Stack:
    """One whole system, in a folder of its own. ``env`` is for its workers and comes last."""

    def __init__(
        self,
        folder: Path,
        setting: Setting,
        *,
        name: str = "penstock",
        env: Mapping[str, str] | None = None,
        workers: int = 1,
        models: str = "benchmarks.devices",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.setting = setting
        self.folder = folder
        self.broker = EmbeddedBroker(folder, socket=folder / "s")
        self.workers: list[Child] = []
        self.dispatcher: Child | None = None
        self._count = workers
        self._worker_env = {**setting.environ(), **(env or {})}
        self._environ = {
            "PENSTOCK_HOME": str(folder),
            "PENSTOCK_BROKER_URL": self.broker.url,
            "PENSTOCK_DATABASE_URL": f"sqlite:///{folder / 'penstock.db'}",
            "PENSTOCK_LOG_LEVEL": "warning",
            "PENSTOCK_WORKER__DEVICE": "cpu",
            # Nobody who is paused may be taken for dead.
            "PENSTOCK_LEASE__TTL_S": "3600",
            **{name: value for name, value in self._worker_env.items() if name.startswith("PENSTOCK_")},
            **(settings or {}),
        }
        self._models = models

    @property
    def environ(self) -> dict[str, str]:
        """What a client of this stack needs in its environment."""
        return dict(self._environ)

    def settings(self) -> Settings:
        """The settings of a client in this process."""
        return Settings.load(
            home=self.folder,
            broker_url=self._environ["PENSTOCK_BROKER_URL"],
            database_url=self._environ["PENSTOCK_DATABASE_URL"],
            models=[],
        )

    # Life -----------------------------------------------------------------------------------------------------

    def start(self) -> Stack:
        """Start everything; returns when all workers have registered."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.broker.start()
        url = self._environ["PENSTOCK_DATABASE_URL"]
        made = Child(
            python("-c", f"import penstock_migrations; penstock_migrations.upgrade({url!r})"),
            log=self.folder / "migrate.log",
            env=self._environ,
        )
        if made.process.wait(START_TIMEOUT_S):
            made.check()
        self.dispatcher = Child(
            python("-m", "penstock_cli", "dispatcher"), log=self.folder / "dispatcher.log", env=self._environ
        )
        self.start_workers()
        return self

    def start_workers(self, env: Mapping[str, str] | None = None, *, count: int | None = None) -> None:
        """Start the workers, with other variables if any are given (they stay in force)."""
        self._worker_env |= dict(env or {})
        self._count = count or self._count
        known = {worker.instance for worker in self._registered()}
        for index in range(self._count):
            self.workers.append(
                Child(
                    python("-m", "penstock_worker.main", "--name", f"w{index}"),
                    log=self.folder / f"worker{index}.log",
                    env={**self._environ, **self._worker_env, "PENSTOCK_MODELS": self._models},
                )
            )

        def ready() -> bool:
            self.check()
            return len({worker.instance for worker in self._registered()} - known) >= self._count

        eventually(ready, "the workers to be ready", timeout_s=START_TIMEOUT_S)

    def stop_workers(self) -> None:
        """Stop them cleanly: what they have not started goes back to the broker."""
        for worker in self.workers:
            worker.stop()
        self.workers = []

    def stop(self) -> None:
        """Stop everything. Idempotent."""
        self.stop_workers()
        if self.dispatcher is not None:
            self.dispatcher.stop()
            self.dispatcher = None
        self.broker.stop()

    def check(self) -> None:
        """Raise ``BenchmarkError`` when a process has ended."""
        for child in [*self.workers, self.dispatcher]:
            if child is not None:
                child.check()

    def pause(self) -> None:
        """Stop its processes in their tracks; the broker answers on."""
        for child in [*self.workers, self.dispatcher]:
            if child is not None:
                child.pause()

    def resume(self) -> None:
        """Let them run on."""
        for child in [*self.workers, self.dispatcher]:
            if child is not None:
                child.resume()

    def _registered(self) -> list[Any]:
        with self._store() as store:
            return store.workers()

    @contextmanager
    def _store(self) -> Iterator[Store]:
        store = Store.open(self._environ["PENSTOCK_DATABASE_URL"])
        try:
            yield store
        finally:
            store.close()

    # Traffic --------------------------------------------------------------------------------------------------

    def offer(
        self,
        streams: Sequence[Mapping[str, Any]],
        *,
        duration_s: float,
        seed: int,
        target_s: float | Mapping[str, float] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """Offer traffic from a process of its own; the report. ``more`` is what ``benchmarks.offer`` takes besides."""
        return self.offering(streams, duration_s=duration_s, seed=seed, target_s=target_s, **more).report()

    def offering(
        self,
        streams: Sequence[Mapping[str, Any]],
        *,
        duration_s: float,
        seed: int,
        target_s: float | Mapping[str, float] | None = None,
        **more: Any,
    ) -> Offering:
        """As ``offer``, without waiting for its end: for what must happen meanwhile."""
        spec = {
            "model": self.setting.model,
            "streams": [{"cost": self.setting.cost, **stream} for stream in streams],
            "duration_s": duration_s,
            "seed": seed,
            "target_s": target_s if target_s is not None else self.setting.target_s,
            **more,
        }
        return Offering(self, spec)

    def open_jobs(self) -> int:
        """Jobs that have not ended."""
        with self._store() as store:
            return sum(count.count for count in store.counts() if not count.state.is_terminal)

    def settle(self, timeout_s: float = DRAIN_TIMEOUT_S) -> None:
        """Wait until nothing is open: a probe must not find what the last one left behind."""

        def settled() -> bool:
            self.check()
            return self.open_jobs() == 0

        eventually(settled, f"{self.name} to finish what is open", timeout_s=timeout_s, every_s=0.1)


class Offering:
    """A load generator that runs."""

    def __init__(self, stack: Stack, spec: Mapping[str, Any]) -> None:
        self._stack = stack
        self._log = stack.folder / "offer.log"
        self._timeout_s = spec["duration_s"] + spec.get("grace_s", 10.0) + 120.0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                python("-m", "benchmarks.offer"),
                env=environment(stack.environ),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
            )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(spec))
        self._process.stdin.close()
        self._process.stdin = None

    def report(self) -> dict[str, Any]:
        """Wait for its end; what it measured."""
        try:
            out, _ = self._process.communicate(timeout=self._timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise BenchmarkError("the load generator did not end") from None
        self._stack.check()
        if self._process.returncode:
            tail = "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
            raise BenchmarkError(f"the load generator ended with status {self._process.returncode}:\n{tail}")
        report: dict[str, Any] = json.loads(out)
        return report


def stop_on_sigterm() -> None:
    """Have SIGTERM end this process as Ctrl-C does: what it has started is stopped first."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)


@contextmanager
def folder() -> Iterator[Path]:
    """A short-lived place; sockets live there, so its path is short."""
    path = Path(tempfile.mkdtemp(prefix="psb-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def running(*stacks: Stack) -> Iterator[None]:
    """Start stacks, pause all of them, and stop them at the end."""
    try:
        for stack in stacks:
            stack.start()
            stack.pause()
        yield
    finally:
        for stack in stacks:
            stack.resume()
            stack.stop()


@contextmanager
def turn(stack: Stack) -> Iterator[Stack]:
    """It is this stack's turn: it runs, the others that are ``running`` are paused."""
    stack.resume()
    try:
        yield stack
        stack.settle()
    finally:
        stack.pause()


# The search ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is spent on a probe and on a search.

    A probe lasts ``probe_s`` or as long as ``least`` requests take, ``most_s`` at most. A search ends when the highest
    rate that held and the lowest that did not are within ``resolution`` of each other.
    """

    probe_s: float = 5.0
    least: int = 400
    most_s: float = 15.0
    resolution: float = 0.04
    seeds: Sequence[int] = (1, 2, 3)
    #: A probe whose generator lagged is made again, so often in all; then the last one counts, marked void.
    tries: int = 3

    def duration_s(self, rate: float) -> float:
        """How long a probe of this rate lasts."""
        return min(self.most_s, max(self.probe_s, self.least / rate))


QUICK = Effort(probe_s=1.5, least=60, most_s=3.0, resolution=0.25, seeds=(1,), tries=1)

Probe = Callable[[float, int], dict[str, Any]]


def probe(stack: Stack, rate: float, seed: int, effort: Effort, **stream: Any) -> dict[str, Any]:
    """Offer one rate to a stack whose turn it is; the report, with ``rate`` and ``seed``. Repeated when void."""
    report: dict[str, Any] = {}
    for attempt in range(effort.tries):
        # Another try is other traffic: the same requests could meet the same disturbance.
        drawn = seed + 1000 * attempt
        report = stack.offer(
            [{"rate": rate, **stream}],
            duration_s=effort.duration_s(rate),
            seed=drawn,
            # A request that is this late is lost, whatever becomes of it.
            grace_s=max(2.0, 4 * stack.setting.target_s),
        )
        report |= {"rate": rate, "seed": drawn, "void_tries": attempt}
        stack.settle()
        if not report["void"]:
            break
    return report


def held(report: Mapping[str, Any], share: float = SHARE) -> bool:
    """Whether the rate was held: enough of what was offered came back right and in time."""
    return report["goodput"] is not None and report["goodput"] >= share


@dataclass(slots=True)
class Found:
    """What a search found: the highest rate that held (0 when none did), and every probe on the way."""

    rate: float
    probes: list[dict[str, Any]] = field(default_factory=list)


def highest_rate(
    ask: Callable[[float], Mapping[str, Any]], guess: float, *, resolution: float, low: float = 0.0
) -> Found:
    """The highest rate that is held, by bisection on a logarithmic scale. ``low`` is known to be held, or 0.

    Begins at ``guess`` and strides up or down, each stride longer than the last, until the limit is between two rates.
    A search that goes down to a fiftieth of ``guess`` finds 0.
    """
    found = Found(low)
    high: float | None = None
    rate, stride = guess, 1.15
    while high is None or not found.rate or high / found.rate > 1 + resolution:
        if rate < guess / 50:
            break
        report = ask(rate)
        found.probes.append(brief(report))
        if held(report):
            found.rate = max(found.rate, rate)
        else:
            high = rate if high is None else min(high, rate)
        if high is None:
            rate *= stride
        elif not found.rate:
            rate /= stride
        else:
            rate = (found.rate * high) ** 0.5
        stride **= 1.6
    return found


def brief(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report without what is long."""
    long = ("lanes", "tenants", "models", "timeline", "samples", "batches")
    short = {name: value for name, value in report.items() if name not in long}
    return short | {"batches": (report.get("batches") or {}).get("all", {})}


# Reports ------------------------------------------------------------------------------------------------------


def bar(
    name: str,
    value: float | None,
    limit: float,
    *,
    at_most: bool = False,
    judged: bool = True,
    rows: Iterable[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """One bar of a benchmark. What was not measured, or has no end, does not hold.

    ``rows`` are the runs that the value stands on: the bar says how many of them are void.
    """
    if value is not None and not math.isfinite(value):
        value = None
    holds = value is not None and (value <= limit if at_most else value >= limit)
    verdict = {"name": name, "value": value, "bar": limit, "at_most": at_most, "judged": judged, "holds": holds}
    if rows is not None:
        runs = [bool(row.get("void")) for row in rows]
        verdict |= {"void": sum(runs), "runs": len(runs)}
    return verdict


def failed(bars: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the judged bars that do not hold."""
    return [verdict["name"] for verdict in bars if verdict["judged"] and not verdict["holds"]]


def arguments(name: str, description: str, *, quick: str) -> argparse.ArgumentParser:
    """A parser with what every live benchmark takes; ``quick`` says what its smoke test is."""
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--quick", action="store_true", help=quick)
    return parser


def conclude(
    report: Mapping[str, Any], options: argparse.Namespace, *, table: str, draw: Callable[[Path], None]
) -> int:
    """Keep a report and its picture, print it as the ``options`` say; the exit status: 1 when a bar does not hold."""
    path = write(report, quick=options.quick)
    with suppress(ConfigError):  # without matplotlib there is no picture
        draw(path.with_suffix(".png"))
    print(json.dumps(report, indent=2) if options.json else f"{table}\n{show_bars(report['bars'])}")
    return 1 if failed(report["bars"]) else 0


RESULTS = Path(__file__).resolve().parent / "results"


def write(report: Mapping[str, Any], *, quick: bool, folder: Path = RESULTS) -> Path:
    """Keep a report as ``results/NAME.json`` (``NAME-smoke.json`` of a smoke test); its path."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{report['benchmark']}{'-smoke' if quick else ''}.json"
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return path


def show_bars(bars: Sequence[Mapping[str, Any]]) -> str:
    """The bars as lines for a person."""
    lines = []
    for verdict in bars:
        sign = "<=" if verdict["at_most"] else ">="
        value = "-" if verdict["value"] is None else f"{verdict['value']:.3g}"
        mark = "holds" if verdict["holds"] else "DOES NOT HOLD" if verdict["judged"] else "does not hold (reported)"
        void = f" ({verdict['void']} of {verdict['runs']} runs void)" if verdict.get("void") else ""
        lines.append(f"  {verdict['name']}: {value} {sign} {verdict['bar']:g}: {mark}{void}")
    return "\n".join(lines)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns; the first row is the header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def mixed(stack: Stack, streams: Sequence[Mapping[str, Any]], seed: int, effort: Effort) -> dict[str, Any]:
    """As ``probe``, for several streams at once; ``rate`` is that of all together."""
    rate = sum(stream["rate"] for stream in streams)
    report: dict[str, Any] = {}
    for attempt in range(effort.tries):
        drawn = seed + 1000 * attempt
        report = stack.offer(
            streams,
            duration_s=effort.duration_s(rate),
            seed=drawn,
            grace_s=max(2.0, 4 * stack.setting.target_s),
        )
        report |= {"rate": rate, "seed": drawn, "void_tries": attempt}
        stack.settle()
        if not report["void"]:
            break
    return report

"""Waking a pool from zero, and what the bell for it costs.

A real autoscaler with the backend ``external``, a real Redis and SQLite, a real client, a real gRPC stream as KEDA
holds one. Each round has a pool of its own, at zero, for which nothing waits: a job of its model is submitted somewhere
between two looks of the autoscaler. Taken are the seconds from the call until KEDA's event has come, and until the
decision is written in SQL.

    python benchmarks/wake.py                 # 60 rounds
    python benchmarks/wake.py --quick --json

Bars: event within 200 ms, decision within 1.5 s, each in every round. The bell's cost is the time that a publication of
one job takes with it and without it, in turns.
"""

# ruff: noqa: E402 (the search path is put right before anything of ours is imported)

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # The folder's own modules must not shadow the standard library's (`queue`).
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks")]

import grpc
from benchmarks import live
from benchmarks.facts import facts

import penstock_migrations
from penstock import Client, Model, clock
from penstock.autoscaler.backends.external import External
from penstock.autoscaler.daemon import Autoscaler
from penstock.autoscaler.front import wire
from penstock.job import NewJob, new_id
from penstock.settings import Settings
from penstock.store import Store
from penstock.telemetry.logs import configure_logs
from penstock.transport.embedded import EmbeddedBroker
from penstock.transport.publisher import Publisher

EVENT_BAR_S, DECISION_BAR_S = 0.2, 1.5
WAIT_S = 60.0


class Echo(Model):
    """Never run: there is no worker."""

    name = "echo"

    def predict(self, batch: list[int]) -> list[int]:
        return batch


def until(condition: Callable[[], object]) -> None:
    """Look every half millisecond."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("the awaited condition did not come true")
        time.sleep(0.0005)


class Keda:
    """One stream, as KEDA holds it open."""

    def __init__(self, address: str, pool: str) -> None:
        self.events: list[tuple[bool, float]] = []
        self._channel = grpc.insecure_channel(address)
        call = self._channel.unary_stream("/externalscaler.ExternalScaler/StreamIsActive")
        metadata = b"\x0a\x04pool\x12" + bytes([len(pool)]) + pool.encode()
        self._stream = call(b"\x1a" + bytes([len(metadata)]) + metadata)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(grpc.RpcError):
            for event in self._stream:
                self.events.append((event == wire.is_active(True), time.monotonic()))

    def close(self) -> None:
        self._channel.close()
        self._thread.join()


def wake(settings: Settings, rounds: int) -> dict[str, Any]:
    """The rounds."""
    store = Store.open(settings.database)
    given = {f"m{i}": {"pool": f"p{i}", "version": "1", "max_size": 1} for i in range(rounds)}
    models = [type(f"M{i}", (Echo,), {"name": f"m{i}"}) for i in range(rounds)]
    autoscaler = Autoscaler(
        settings, store, External(settings, store), room=lambda pools: dict.fromkeys(pools, 100), given=given
    )
    autoscaler.start()
    desk = autoscaler.desk
    assert desk is not None
    events, decisions = [], []
    with Client(settings, models=models) as client:
        until(lambda: len(desk.board.at_zero()) == rounds)
        assert desk.listens(WAIT_S)
        for each in range(rounds):
            keda = Keda(desk.push, f"p{each}")
            until(lambda keda=keda: keda.events)
            assert keda.events[0][0] is False
            time.sleep(settings.autoscaler.every_s * ((each * 0.618) % 1))  # anywhere between two looks
            submitted = time.monotonic()
            client.enqueue(f"m{each}", each, lane="background")
            until(lambda keda=keda: len(keda.events) > 1)
            active, at = keda.events[1]
            assert active
            events.append(at - submitted)
            until(lambda each=each: store.elastic.slots(f"p{each}"))
            decisions.append(time.monotonic() - submitted)
            keda.close()
    autoscaler.stop()
    store.close()
    return {"event_s": spread(events), "decision_s": spread(decisions)}


def bell(settings: Settings, turns: int) -> dict[str, Any]:
    """A publication of one job with the bell and without it, in turns."""
    took: dict[str, list[float]] = {"with": [], "without": []}
    publisher = Publisher(settings.broker, settings.namespace)
    send = publisher._send

    def shorter(commands: list[bytes], *, replies: int) -> list[Any]:
        assert b"PUBLISH" in commands[-1]
        return send(commands[:-1], replies=replies - 1)

    for turn in range(2 * turns):
        name = "with" if turn % 2 else "without"
        now = clock.now()
        job = NewJob(
            id=new_id(), model="echo", version="1", input="1", lane="background", accepted_at=now, available_at=now
        )
        with mock.patch.object(publisher, "_send", send if turn % 2 else shorter):
            began = time.perf_counter()
            publisher.publish([job])
            took[name].append(time.perf_counter() - began)
    publisher.close()
    medians = {name: statistics.median(values[turns // 10 :]) for name, values in took.items()}
    return {"with_us": medians["with"] * 1e6, "without_us": medians["without"] * 1e6}


def spread(values: list[float]) -> dict[str, float]:
    """Median and worst."""
    return {"median": statistics.median(values), "worst": max(values)}


def report_of(found: dict[str, Any], *, rounds: int) -> dict[str, Any]:
    """The figures with their bars, which come last."""
    event, decision = found["event_s"]["worst"], found["decision_s"]["worst"]
    bars = [
        live.bar("submission -> external-push event, worst, s", event, EVENT_BAR_S, at_most=True),
        live.bar("submission -> decision, worst, s", decision, DECISION_BAR_S, at_most=True),
    ]
    return {"benchmark": "wake", "facts": facts(seed=0), "rounds": rounds, **found, "bars": bars}


def table(report: dict[str, Any]) -> str:
    """The figures as lines for a person."""
    lines = [
        f"{name:12} median {report[name]['median']:.3f}  worst {report[name]['worst']:.3f}"
        for name in ("event_s", "decision_s")
    ]
    cost = report["bell"]
    lines.append(f"a publication takes {cost['without_us']:.1f} us, with the bell {cost['with_us']:.1f} us")
    return "\n".join(lines)


def main() -> int:
    """Run it, print it; whether the bars hold."""
    options = live.arguments("wake.py", "how soon a pool without workers has one", quick="few rounds").parse_args()
    configure_logs("error")
    rounds, turns = (6, 500) if options.quick else (60, 5000)
    with tempfile.TemporaryDirectory(prefix="penstock-wake-") as folder:
        broker = EmbeddedBroker(Path(folder), socket=Path(folder) / "s")
        broker.start()
        settings = Settings.load(
            home=Path(folder),
            broker_url=broker.url,
            pools={f"p{i}": {"min": 0, "max": 8} for i in range(rounds)},
            autoscaler={"backend": "external", "push": {"port": 0}},
            log_level="error",
        )
        try:
            penstock_migrations.upgrade(settings.database)
            found = wake(settings, rounds) | {"bell": bell(settings, turns)}
        finally:
            broker.stop()
    report = report_of(found, rounds=rounds)
    return live.conclude(report, options, table=table(report), draw=lambda path: None)


if __name__ == "__main__":
    sys.exit(main())

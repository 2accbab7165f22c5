"""Offers traffic to ``celery_device``, as ``benchmarks.offer`` does to penstock: same spec, same report.

``python -m benchmarks.peers.celery_offer < spec.json``. The spec's ``flood`` is the number of background jobs that are
queued before the first request. Results are heard as Celery's own clients hear them, on the channel to which the
backend publishes each; whatever else is heard is the background at work, counted in ``background_per_s`` over the run.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import redis
from benchmarks.peers.celery_device import PRIORITY, app, device

from penstock.loadgen import tally
from penstock.loadgen.arrivals import Stream, schedule
from penstock.loadgen.seeds import seeded
from penstock.loadgen.tally import Fate, Sample
from penstock.transport.url import connect

CHANNEL = b"celery-task-meta-"


class Ear(threading.Thread):
    """Hears every result of the backend, with the moment in which it came."""

    def __init__(self, url: str) -> None:
        super().__init__(name="ear", daemon=True)
        self._pubsub = connect(url).pubsub(ignore_subscribe_messages=True)
        self._pubsub.psubscribe(CHANNEL + b"*")
        self.heard: dict[str, tuple[float, Any]] = {}
        self.stopping = threading.Event()

    def run(self) -> None:
        """Listen until told to stop."""
        while not self.stopping.is_set():
            try:
                message = self._pubsub.get_message(timeout=0.2)
            except redis.ConnectionError:
                return
            if message is not None:
                at = time.monotonic()
                self.heard[message["channel"][len(CHANNEL) :].decode()] = (at, message["data"])


def main() -> None:
    """Serve one request."""
    spec = json.load(sys.stdin)
    ear = Ear(str(app.conf.result_backend))
    ear.start()
    with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
        # One round trip, so that connections are open and the worker is known to serve.
        warm = device.apply_async((0,), producer=producer, priority=PRIORITY["interactive"])
        _await(ear, {warm.id}, time.monotonic() + 60)
        for number in range(spec.get("flood", 0)):
            device.apply_async((number,), producer=producer, priority=PRIORITY["background"])
        json.dump(_offer(spec, ear, producer), sys.stdout)
    ear.stopping.set()
    ear.join(5)


def _offer(spec: dict[str, Any], ear: Ear, producer: Any) -> dict[str, Any]:
    streams = [Stream.of(stream) for stream in spec["streams"]]
    arrivals = schedule(streams, spec["duration_s"], rng=seeded(spec["seed"]))
    samples = [Sample(a.at_s, a.lane, a.tenant, a.cost) for a in arrivals]
    lags = []
    start = time.monotonic() + 0.1
    for number, (arrival, sample) in enumerate(zip(arrivals, samples, strict=True)):
        time.sleep(max(0.0, start + arrival.at_s - time.monotonic()))
        lags.append(time.monotonic() - start - arrival.at_s)
        sample.id = device.apply_async((number,), producer=producer, priority=PRIORITY[arrival.lane]).id
        sample.answer_s = time.monotonic() - start - arrival.at_s
    own = {sample.id for sample in samples if sample.id}
    _await(ear, own, start + spec["duration_s"] + spec.get("grace_s", 10.0))
    heard = dict(ear.heard)
    for number, sample in enumerate(samples):
        if sample.id in heard:
            at, text = heard[sample.id]
            result = json.loads(text)
            sample.latency_s = at - start - sample.at_s
            right = result["status"] == "SUCCESS" and result["result"] == number + 1
            sample.fate = Fate.OK if right else Fate.FAILED
    report = tally.report(samples, duration_s=spec["duration_s"], target_s=spec["target_s"], lags_s=lags)
    ends = start + spec["duration_s"]
    others = sum(1 for id, (at, _) in heard.items() if id not in own and start <= at <= ends)
    report["background_per_s"] = others / spec["duration_s"]
    report["samples"] = [[s.at_s, s.lane, s.tenant, s.fate, s.latency_s] for s in samples]
    return report


def _await(ear: Ear, ids: set[str], until: float) -> None:
    while not ids <= ear.heard.keys() and time.monotonic() < until:
        time.sleep(0.02)


if __name__ == "__main__":
    main()

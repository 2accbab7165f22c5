"""Stock Celery's canvases of the shapes of ``benchmarks/pipeline.py``: tasks, and a producer that is told what to do.

The worker is ``celery -A benchmarks.peers.celery_canvas worker`` with the options of ``celery_app``, whose settings
it has. ``python -m benchmarks.peers.celery_canvas`` is the producer (``benchmarks.partner``):

=========================================================  ===========================================================
``{"verb": "run", "what": …, "count": n}``                 ``apply_async().get()`` n times: ``calls_us``
``{"verb": "submit", "what": …, "count": n}``              n canvases: ``wall_s``
``{"verb": "wait"}``                                       until those have ended: ``last_at``, Unix seconds
=========================================================  ===========================================================

Nothing of penstock is imported here. A shape with a way that no chord has (``N``, a random graph) has no canvas.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from benchmarks import shapes
from benchmarks.partner import Request, serve
from benchmarks.peers.celery_app import app
from celery import chain, group

ALPHA_S = float(os.environ.get("BENCH_ALPHA_MS", "8")) / 1e3
BETA_S = float(os.environ.get("BENCH_BETA_MS", "0.25")) / 1e3
TIMEOUT_S = 300.0

#: One device is one at a time, however many threads a worker has.
_device = threading.Lock()


@app.task(name="canvas.noop")
def noop(item: Any) -> Any:
    """Gives back what it was given."""
    return item if isinstance(item, str) else "".join(item)


@app.task(name="canvas.device")
def device(number: Any, cost: float = 1.0) -> float:
    """Adds one to a number, or to the first of several, slowly."""
    with _device:
        time.sleep(ALPHA_S + BETA_S * cost)
    return float(number if isinstance(number, int | float) else number[0]) + 1


def _six(step: Any, item: Any) -> Any:
    return chain(step.s(item), group(step.s() for _ in range(3)), step.s(), step.s())


def _diamond() -> Any:
    first, left, right, last = shapes.diamond()
    two = group(device.s(cost=left.cost), device.s(cost=right.cost))
    return chain(device.s(1.0, cost=first.cost), two, device.s(cost=last.cost))


CANVASES: dict[str, Callable[[], Any]] = {
    "six-noop": lambda: _six(noop, "hello, world"),
    "six-device": lambda: _six(device, 1),
    "diamond": _diamond,
    "map-200": lambda: chain(device.s(1.0), group(device.s() for _ in range(200)), device.s()),
}


class Verbs:
    """What a program does that sends canvases."""

    def __init__(self) -> None:
        self._sent: list[Any] = []

    def answer(self, request: Request) -> dict[str, Any]:
        """Carry out one request."""
        if request["verb"] == "wait":
            return {"last_at": self._wait()}
        make, count = CANVASES[request["what"]], request["count"]
        before = time.perf_counter()
        if request["verb"] == "submit":
            self._sent += [make().apply_async() for _ in range(count)]
            return {"wall_s": time.perf_counter() - before}
        calls_us = []
        for _ in range(count):
            before = time.perf_counter()
            make().apply_async().get(timeout=TIMEOUT_S)
            calls_us.append((time.perf_counter() - before) * 1e6)
        return {"calls_us": calls_us}

    def _wait(self) -> float:
        for result in self._sent:
            result.get(timeout=TIMEOUT_S)
        ends = [_unix(result.date_done) for result in self._sent]
        self._sent = []
        return max(ends)


def _unix(at: Any) -> float:
    done = at if isinstance(at, datetime) else datetime.fromisoformat(at)
    return (done if done.tzinfo is not None else done.replace(tzinfo=UTC)).timestamp()


if __name__ == "__main__":
    serve(Verbs().answer)

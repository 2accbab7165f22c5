"""A producer process: does what it is told, line by line, and says how long it took.

``python -m benchmarks.producer MODULE`` imports ``MODULE.Producer`` and reads requests as JSON lines:
``{"verb": "single" | "many" | "kombu_batch" | "round_trip", "count": n, "warm": n}``. The answer has ``wall_s`` and
``cpu_s`` of the measured part and, for verbs that are called once per item, each call's duration in ``calls_us``.
Both sides are timed by this one loop. It ends when its input does.
"""

from __future__ import annotations

import importlib
import sys
import time
from functools import partial
from typing import Any

from benchmarks.partner import serve

#: The payload of every job.
ITEM = "hello, world"

#: Verbs that take all items at once.
BULK = frozenset({"many", "kombu_batch"})


def main() -> None:
    """Serve requests until the end of input."""
    producer = importlib.import_module(sys.argv[1]).Producer()
    serve(partial(answer, producer))
    producer.close()


def answer(producer: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Carry out one request."""
    call = getattr(producer, request["verb"])
    count, warm = request["count"], request.get("warm", 0)
    if request["verb"] in BULK:
        if warm:
            call([ITEM] * warm)
        items = [ITEM] * count
        cpu, start = time.process_time(), time.perf_counter()
        call(items)
        return {"wall_s": time.perf_counter() - start, "cpu_s": time.process_time() - cpu, "calls_us": []}
    for _ in range(warm):
        call(ITEM)
    calls = []
    cpu, start = time.process_time(), time.perf_counter()
    for _ in range(count):
        before = time.perf_counter_ns()
        call(ITEM)
        calls.append((time.perf_counter_ns() - before) / 1000)
    return {"wall_s": time.perf_counter() - start, "cpu_s": time.process_time() - cpu, "calls_us": calls}


if __name__ == "__main__":
    main()

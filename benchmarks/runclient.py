"""The client's process of ``benchmarks/pipeline.py``: ``python -m benchmarks.runclient``, a ``benchmarks.partner``.

====================================================  ================================================================
``{"verb": "run", "what": …, "input": …, "count": n}``  ``client.run`` n times, one after the other: ``calls_us``
``{"verb": "submit", …}``                             ``enqueue_many``, n times this input: ``wall_s``, ``ids``
====================================================  ================================================================

``what`` is the name of a pipeline of ``benchmarks.pipelines``, or else of a model.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.partner import Request, serve
from benchmarks.pipelines import PIPELINES, Nobody

import penstock

#: Longest wait for one result, seconds.
TIMEOUT_S = 120.0


class Verbs:
    """What a program does that runs pipelines. Settings come from the environment."""

    def __init__(self) -> None:
        self._client = penstock.Client(models=["benchmarks.devices", "benchmarks.subject", Nobody])

    def answer(self, request: Request) -> dict[str, Any]:
        """Carry out one request."""
        what = PIPELINES.get(request["what"], request["what"])
        return {"run": self._run, "submit": self._submit}[request["verb"]](what, request["input"], request["count"])

    def _run(self, what: Any, value: Any, count: int) -> dict[str, Any]:
        calls_us = []
        for _ in range(count):
            before = time.perf_counter_ns()
            self._client.run(what, value, result_timeout=TIMEOUT_S)
            calls_us.append((time.perf_counter_ns() - before) / 1000)
        return {"calls_us": calls_us}

    def _submit(self, what: Any, value: Any, count: int) -> dict[str, Any]:
        values = [value] * count
        before = time.perf_counter()
        jobs = self._client.enqueue_many(what, values)
        return {"wall_s": time.perf_counter() - before, "ids": [jobs[0].id, jobs[-1].id]}

    def close(self) -> None:
        """Write what is pending."""
        self._client.close()


def main() -> None:
    """Serve requests until the end of input."""
    verbs = Verbs()
    serve(verbs.answer)
    verbs.close()


if __name__ == "__main__":
    main()

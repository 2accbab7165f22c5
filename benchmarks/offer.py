"""The load generator's process: a request as JSON on standard input, the report as JSON on standard output.

``python -m benchmarks.offer < spec.json``, with settings in the environment. The spec::

    {"model": "device", "streams": [{"rate": 1000, "arrivals": "poisson", …}], "duration_s": 5, "seed": 1,
     "target_s": 0.1, "grace_s": 10, "warm": 20, "samples": false, "options": {}}

``streams`` are ``penstock.loadgen.arrivals.Stream`` in JSON. ``target_s`` may be an object by lane. With ``samples``,
the report has every request as ``[at_s, lane, tenant, fate, latency_s]``. Answers are checked: each of the models in
``benchmarks.devices`` gives back the request's number plus one.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from penstock.loadgen import generator, tally
from penstock.loadgen.arrivals import Arrival, Stream, schedule
from penstock.loadgen.seeds import seeded
from penstock.settings import Settings


def number_input(number: int, arrival: Arrival) -> Any:
    """For ``device`` and ``mlp``."""
    return number


def costly_input(number: int, arrival: Arrival) -> Any:
    """For ``costly``."""
    return [number, round(arrival.cost, 4)]


def right(input: Any, output: Any) -> bool:
    """Whether the output is the input's number plus one."""
    asked = input[0] if isinstance(input, list) else input
    given = output[0] if isinstance(output, list) else output
    return bool(given == asked + 1)


def main() -> None:
    """Serve one request."""
    spec = json.load(sys.stdin)
    settings = Settings.load()
    arrivals = schedule([Stream.of(stream) for stream in spec["streams"]], spec["duration_s"], rng=seeded(spec["seed"]))
    plan = generator.Plan(
        model=spec["model"],
        arrivals=arrivals,
        duration_s=spec["duration_s"],
        make_input=costly_input if spec["model"] == "costly" else number_input,
        check=right,
        grace_s=spec.get("grace_s", 10.0),
        warm=spec.get("warm", 20),
        options=spec.get("options", {}),
    )
    run = generator.measure(settings, plan)
    report = tally.report(
        run.samples,
        duration_s=plan.duration_s,
        target_s=spec["target_s"],
        lags_s=run.lags_s,
        bucket_s=spec.get("bucket_s", 0.25),
    )
    report["batches"] = generator.batches_of(settings, run.samples)
    if spec.get("samples"):
        report["samples"] = [[s.at_s, s.lane, s.tenant, s.fate, s.latency_s] for s in run.samples]
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()

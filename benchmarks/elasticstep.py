"""Traffic that is suddenly five times as much, live: the real policy, daemon, local backend and workers."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.elasticground import POOL, Plan, Site
from benchmarks.live import Setting
from benchmarks.parts import Part

#: A device does a job in 50 ms, one at a time: 20 a second.
DEVICE = Setting(name="device", alpha_ms=50, beta_ms=0, target_ms=500, model="device", max_size=1)
#: What is offered, of one device's capacity, before the step; and how many times as much after it.
SHARE, FACTOR = 0.75, 5
DEVICES = 5
#: Arrivals of so long after the step are nobody's fault, seconds.
FREE_S = 1.0
#: A case: what the pool has besides.
CASES: dict[str, dict[str, Any]] = {
    "parked": {"warm": DEVICES - 1},
    "forked": {},
}


JUDGED = "parked"


def step(folder: Path, plan: Plan) -> Part:
    """A minute of five devices' traffic after one device's. Judged with spares; without them, reported."""
    part = Part()
    late: list[float] = []
    turns: list[float] = []
    void = []
    for case, more in CASES.items():
        for number in range(plan.steps if case == JUDGED else 1):
            where = folder / f"{case}{number}"
            where.mkdir(parents=True)
            found = _measure(where, plan, plan.seed + number, more)
            part.tell(case, "missed beyond the first second", found["missed"], "of 1", **found)
            part.tell(case, "reversals a minute", found["reversals"])
            part.tell(case, "all that were there when it was over", found["most"])
            print(f"  {case}: {json.dumps({k: v for k, v in found.items() if k != 'decisions'})}", flush=True)
            for line in found["decisions"]:
                print(f"    {line}", flush=True)
            if case == JUDGED:
                late.append(found["missed"])
                turns.append(found["reversals"])
                void.append(found)
    late.sort()
    part.at_most(
        "5x step: interactive targets missed beyond the first second, share", late[len(late) // 2], 0.01, rows=void
    )
    part.at_most("5x step: reversals a minute", max(turns), 1.0, rows=void)
    return part


def _measure(folder: Path, plan: Plan, seed: int, more: dict[str, Any]) -> dict[str, Any]:
    targets = {"targets": {"interactive": DEVICE.target_s}}
    site = Site(
        folder,
        DEVICE,
        models="benchmarks.devices",
        pool={"models": ["device"], "min": 1, "max": DEVICES, **targets, **more},
    )
    rate = SHARE * DEVICE.capacity(1)
    try:
        site.start()
        site.scaler(scripted=False)
        site.until(1, parked=int(more.get("warm", 0)), exactly=False)
        began = time.time()
        report = site.offer(
            [{"rate": rate, "arrivals": "step", "factor": FACTOR, "at_s": plan.step_at_s}],
            duration_s=plan.step_s,
            seed=seed,
            samples=True,
            grace_s=5.0,
        )
        with site.store() as store:
            changes = [change for change in store.elastic.changes(POOL, limit=1000) if change.at >= began]
    finally:
        site.stop()
    # The generator warms up first: its beginning is known by when the step was decided about, not by our clock.
    judged = [s for s in report["samples"] if s[0] >= plan.step_at_s + FREE_S]
    missed = [s for s in judged if s[3] != "ok" or s[4] > DEVICE.target_s]
    sizes = [change.after for change in reversed(changes)]
    minutes = plan.step_s / 60.0
    return {
        "seed": seed,
        "missed": len(missed) / len(judged),
        "missed_until_s": max((s[0] for s in missed), default=0.0) - plan.step_at_s,
        "judged": len(judged),
        "void": report["void"],
        "p99_ms": report["p99_ms"],
        "before": sum(s[3] != "ok" or s[4] > DEVICE.target_s for s in report["samples"] if s[0] < plan.step_at_s),
        "reversals": reversals([change.before for change in reversed(changes)][:1] + sizes) / minutes,
        "most": max(sizes, default=1),
        "decisions": [
            f"{each.at - began:6.1f} s: {each.before} -> {each.after} + {each.parked} {each.code}: {each.reason}"
            for each in reversed(changes)
        ],
    }


def reversals(sizes: list[int]) -> int:
    """How often a size that went up goes down next, or the other way: PURE. The first rise is none."""
    moves = [after - before for before, after in pairwise(sizes) if after != before]
    return sum((one > 0) != (other > 0) for one, other in pairwise(moves))

"""A simulated generator for the live benchmarks: each step sleeps, as a GPU would work, whatever the sequences.

``BENCH_STEP_MS`` and ``BENCH_STEPS`` are read when a worker imports this module.
"""

from __future__ import annotations

import os
import time
from typing import Any

import penstock

STEP_S = float(os.environ.get("BENCH_STEP_MS") or 20.0) / 1e3
STEPS = int(os.environ.get("BENCH_STEPS") or 250)


class Generation(penstock.StepModel):
    """Counts to ``BENCH_STEPS``, and tells each step."""

    name = "generation"
    batching = penstock.Batching(max_size=1)
    parked = 1

    def begin(self, batch: list[int]) -> dict[str, int]:
        """One counter for the group."""
        return {"done": 0, "size": len(batch)}

    def step(self, state: dict[str, int]) -> dict[int, Any]:
        """One step of all."""
        time.sleep(STEP_S)
        state["done"] += 1
        answer = state["done"] if state["done"] == STEPS else penstock.Progress(state["done"])
        return dict.fromkeys(range(state["size"]), answer)

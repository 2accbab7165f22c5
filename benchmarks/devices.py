"""The models of the live benchmarks: devices that sleep, as long as their environment says, and a small real one.

A device sleeps ``alpha + beta * cost`` milliseconds for a batch: that frees the interpreter and the core, as a GPU
does, and makes the right answer known. ``BENCH_ALPHA_MS``, ``BENCH_BETA_MS``, ``BENCH_MAX_SIZE`` and
``BENCH_MAX_WAIT_S`` (pinned only where it is set) are read when a worker imports this module. Set ``BENCH_NOISE`` for a
relative standard deviation.
"""

from __future__ import annotations

import os
import random
import time
from typing import Any

import penstock


def _number(name: str, default: float) -> float:
    return float(os.environ.get(name) or default)


ALPHA_S, BETA_S = _number("BENCH_ALPHA_MS", 8.0) / 1e3, _number("BENCH_BETA_MS", 0.25) / 1e3
NOISE = _number("BENCH_NOISE", 0.0)
MAX_SIZE = int(_number("BENCH_MAX_SIZE", 64))
MAX_WAIT_S = float(os.environ["BENCH_MAX_WAIT_S"]) if os.environ.get("BENCH_MAX_WAIT_S") else None
#: Width and depth of the real model; one thread, so that the worker's share of the machine is one core.
WIDTH, DEPTH = int(_number("BENCH_MLP_WIDTH", 2048)), int(_number("BENCH_MLP_DEPTH", 8))

_noise = random.Random(0)


def keep_busy(cost: float) -> None:
    """Hold the device for a batch of this cost."""
    spread = max(0.1, _noise.gauss(1.0, NOISE)) if NOISE else 1.0
    time.sleep((ALPHA_S + BETA_S * cost) * spread)


class Device(penstock.Model):
    """Adds one to a number, slowly."""

    name = "device"
    batching = penstock.Batching(max_size=MAX_SIZE, max_wait_s=MAX_WAIT_S)

    def predict(self, batch: list[int]) -> list[int]:
        """The numbers, each raised by one."""
        keep_busy(len(batch))
        return [number + 1 for number in batch]


def cost_of(item: Any) -> float:
    """The cost that stands in an input ``[number, cost]``."""
    return float(item[1])


class Costly(penstock.Model):
    """Adds one to the number in ``[number, cost]``, as slowly as the cost says."""

    name = "costly"
    batching = penstock.Batching(max_size=MAX_SIZE, max_wait_s=MAX_WAIT_S, cost=cost_of)

    def predict(self, batch: list[list[float]]) -> list[float]:
        """The numbers, each raised by one."""
        keep_busy(sum(item[1] for item in batch))
        return [item[0] + 1 for item in batch]


class Mlp(penstock.Model):
    """A stack of square layers on the CPU: a row of numbers in, the same number raised by one and a sum out."""

    name = "mlp"
    batching = penstock.Batching(max_size=MAX_SIZE, max_wait_s=MAX_WAIT_S)

    def load(self, device: str) -> None:
        """Random weights: what they mean does not matter to the clock."""
        import torch

        torch.set_num_threads(1)
        torch.manual_seed(0)
        layers: list[Any] = []
        for _ in range(DEPTH):
            layers += [torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU()]
        self.net = torch.nn.Sequential(*layers).to(device).eval()
        self.device = device

    def example(self) -> int:
        """Any number."""
        return 1

    def predict(self, batch: list[int]) -> list[list[float]]:
        """``[number + 1, sum of the last layer]`` for each."""
        import torch

        with torch.inference_mode():
            phase = torch.arange(WIDTH, device=self.device, dtype=torch.float32)
            rows = torch.sin(torch.tensor(batch, device=self.device, dtype=torch.float32)[:, None] + phase)
            sums = self.net(rows).sum(dim=1).tolist()
        return [[number + 1, total] for number, total in zip(batch, sums, strict=True)]

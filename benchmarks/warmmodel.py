"""The model of ``benchmarks/warm.py``: 200 MB of weights in a file, all of which one forward pass reads."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import penstock

#: Square layers of 1,024: 4.2 MB each.
WIDTH, DEPTH = 1024, 48


class Deep(penstock.TorchModel):
    """Forty-eight square layers, and the sum of what comes out."""

    name = "deep"
    weights = os.environ.get("BENCH_WARM_WEIGHTS")

    def build(self) -> Any:
        """The layers."""
        import torch

        class Layers(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layers = torch.nn.Sequential(*[torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(DEPTH)])

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return torch.as_tensor(self.layers(x).sum(dim=1))

        return Layers()

    def example(self) -> float:
        """One number, that the input is filled with."""
        return 1.0

    def collate(self, batch: Sequence[Any]) -> Any:
        """A row for each item."""
        import torch

        return torch.tensor(batch, dtype=torch.float32).reshape(-1, 1).expand(len(batch), WIDTH)

    def predict(self, batch: list[float]) -> Sequence[Any]:
        """The sums; the end of each pass is noted."""
        results = super().predict(batch)
        note()
        return results


def note() -> None:
    """Write down that a pass has ended, and when, in seconds of the clock that all processes share."""
    if path := os.environ.get("BENCH_WARM_NOTES"):
        with Path(path).open("a", encoding="utf-8") as notes:
            notes.write(f"{os.getpid()} {time.monotonic()!r}\n")


def save(path: Path) -> None:
    """Write the weights."""
    import torch

    torch.manual_seed(1)
    torch.save(type("Filled", (Deep,), {"weights": None})().build().state_dict(), path)

"""penstock's side of ``benchmarks/queue.py``: the no-op model and a producer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import penstock

MODEL = "noop"


class Noop(penstock.Model):
    """Gives back what it was given."""

    name = MODEL
    #: The largest batch that no-op work is worth: beyond it the costs per batch no longer show.
    batching = penstock.Batching(max_size=128)

    def predict(self, batch: list[str]) -> list[str]:
        """The same items."""
        return batch


class Producer:
    """What a program that enqueues does, verb by verb. Settings come from the environment."""

    def __init__(self) -> None:
        self._client = penstock.Client()

    def single(self, item: str) -> None:
        """One job, durable in SQL when the call returns."""
        self._client.enqueue(MODEL, item, lane="background")

    def many(self, items: Sequence[str]) -> None:
        """One bulk submission."""
        self._client.enqueue_many(MODEL, items)

    def round_trip(self, item: str) -> Any:
        """Enqueue and result."""
        return self._client.run(MODEL, item, timeout=30)

    def close(self) -> None:
        """Write what is pending."""
        self._client.close()

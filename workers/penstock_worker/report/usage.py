"""Tells the broker what each queue has taken of this device, for ``penstock model show``.

Summed here and told at the heartbeat: a command per batch would cost the hot path more than the figure is worth. A
worker that is killed, or a broker that is away, loses one heartbeat's worth.
"""

from __future__ import annotations

from collections.abc import Mapping

from penstock.transport import keys
from penstock_worker.report.wire import Wire


class Usage:
    """``spent`` are the device seconds of each queue since this worker started; they only grow."""

    def __init__(self, spent: Mapping[str, float], wire: Wire, *, namespace: str) -> None:
        self._spent = spent
        self._wire = wire
        self._key = keys.device(namespace)
        self._told: dict[str, float] = {}

    def tell(self) -> None:
        """Add what is new since the last time."""
        news = [
            (queue, seconds) for queue, seconds in dict(self._spent).items() if seconds > self._told.get(queue, 0.0)
        ]
        self._wire.send(
            [
                ("HINCRBYFLOAT", self._key, queue, f"{seconds - self._told.get(queue, 0.0):.9f}")
                for queue, seconds in news
            ]
        )
        self._told.update(news)

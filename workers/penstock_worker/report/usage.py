"""Tells the broker what each queue has taken of this device, for ``penstock model show`` and the autoscaler: jobs that
are done, and device seconds.

Summed here and told once a second: a command per batch would cost the hot path more than the figures are worth. A
worker that is killed, or a broker that is away, loses one second's worth.
"""

from __future__ import annotations

from collections.abc import Mapping

from penstock.service import STOP_S, ThreadService
from penstock.transport import keys
from penstock_worker.report.wire import Wire

#: How often it is told, seconds: the autoscaler looks as often.
EVERY_S = 1.0


class Usage(ThreadService):
    """``spent`` are the device seconds of each queue since this worker started, ``done`` its jobs; they only grow.

    ``start`` begins to tell, ``stop`` tells the rest and ends.
    """

    def __init__(self, spent: Mapping[str, float], done: Mapping[str, int], wire: Wire, *, namespace: str) -> None:
        super().__init__("usage")
        self._spent, self._done = spent, done
        self._wire = wire
        self._device, self._jobs = keys.device(namespace), keys.done(namespace)
        self._told: dict[str, tuple[float, int]] = {}

    def stop(self, timeout_s: float | None = STOP_S) -> bool:
        """End it, and tell what is left."""
        ended = super().stop(timeout_s)
        self.tell()
        return ended

    def run(self) -> None:
        """Tell, once a second."""
        for _ in self.turns(EVERY_S, at_once=False):
            self.tell()

    def tell(self) -> None:
        """Add what is new since the last time."""
        news = []
        for queue, seconds in dict(self._spent).items():
            before_s, before = self._told.get(queue, (0.0, 0))
            done = self._done.get(queue, 0)
            if seconds > before_s or done > before:
                news += [
                    ("HINCRBYFLOAT", self._device, queue, f"{seconds - before_s:.9f}"),
                    ("HINCRBY", self._jobs, queue, done - before),
                ]
                self._told[queue] = (seconds, done)
        if news:
            self._wire.send(news)

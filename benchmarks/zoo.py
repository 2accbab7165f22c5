"""Ten models that share devices, for ``benchmarks/routing.py``: ``m0`` to ``m9``, alike but for what they are asked.

Each sleeps as ``benchmarks.devices`` does, by the same variables. A worker serves all of them (``benchmarks.zoo``) or
some (``benchmarks.zoo:M3,benchmarks.zoo:M7``). Each says that it takes a gibibyte of the device, which only matters
where ``worker.memory`` is set, and takes ``BENCH_LOAD_MS`` to load.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from benchmarks.devices import MAX_SIZE, MAX_WAIT_S, _number, keep_busy

import penstock

COUNT = 10
LOAD_S = _number("BENCH_LOAD_MS", 0.0) / 1e3


class _Shared(penstock.Model):
    """Adds one to a number, slowly."""

    batching = penstock.Batching(max_size=MAX_SIZE, max_wait_s=MAX_WAIT_S)
    resources = penstock.Resources(memory="1GiB")

    def load(self, device: str) -> None:
        """What reading weights would take."""
        time.sleep(LOAD_S)

    def example(self) -> int:
        """Any number: every worker has timed every model before it is measured."""
        return 1

    def predict(self, batch: list[int]) -> list[int]:
        """The numbers, each raised by one."""
        keep_busy(len(batch))
        return [number + 1 for number in batch]


#: In the order of their numbers, which says nothing of their popularity.
NAMES = tuple(f"m{number}" for number in range(COUNT))
for _name in NAMES:
    globals()[_name.upper()] = type(_name.upper(), (_Shared,), {"name": _name, "__module__": __name__})


def sources(names: Iterable[str]) -> str:
    """The setting ``models`` of a worker that serves these."""
    return ",".join(f"{__name__}:{name.upper()}" for name in names)

"""A workload with mixed fates, and what each job of it may end as."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock import Client, JobState
from penstock.lane import LANES

OK = (JobState.SUCCEEDED,)
FAIL = (JobState.FAILED,)

#: How much of each hundred jobs is told to fail, and how much gets a deadline that may pass.
FAIL_PERCENT, DEADLINE_PERCENT = 3, 3


@dataclass
class Load:
    """Submits jobs and remembers what was accepted. ``seed`` decides everything."""

    client: Client
    ledger: Path
    seed: int
    pause_s: float = 0.0
    #: Job id -> key of its item.
    accepted: dict[str, str] = field(default_factory=dict)
    #: Job id -> states in which it may end.
    expected: dict[str, Collection[JobState]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self._next = 0

    def submit(self, count: int, *, mixed: bool = True) -> list[str]:
        """Submit ``count`` jobs in bulk, over both lanes; with ``mixed`` some fail and some have tight deadlines."""
        groups: dict[tuple[str, bool], list[dict[str, Any]]] = {}
        for _ in range(count):
            lane = self.rng.choice(LANES)
            dice = self.rng.randrange(100) if mixed else 99
            tight = FAIL_PERCENT <= dice < FAIL_PERCENT + DEADLINE_PERCENT
            groups.setdefault((lane, tight), []).append(self.item("fail" if dice < FAIL_PERCENT else "ok"))
        ids = []
        for (lane, tight), items in groups.items():
            deadline = self.rng.uniform(0.5, 5.0) if tight else None
            handles = self.client.enqueue_many("witnessed", items, lane=lane, deadline=deadline)
            for handle, item in zip(handles, items, strict=True):
                self.remember(handle.id, item, tight=tight)
                ids.append(handle.id)
        return ids

    def item(self, fate: str = "ok") -> dict[str, Any]:
        """The next item."""
        self._next += 1
        return {"ledger": str(self.ledger), "key": f"k{self._next}", "fate": fate, "pause_s": self.pause_s}

    def remember(self, id: str, item: dict[str, Any], *, tight: bool = False) -> None:
        """Note an accepted job and what may become of it."""
        self.accepted[id] = item["key"]
        allowed = FAIL if item["fate"] == "fail" else OK
        self.expected[id] = (*allowed, JobState.EXPIRED) if tight else allowed

    def cancel_some(self, count: int) -> None:
        """Cancel random jobs, wherever they are in their lives."""
        for id in self.rng.sample(sorted(self.accepted), count):
            # Noted first: when the call fails, the cancellation may have been committed all the same.
            self.expected[id] = (*self.expected[id], JobState.CANCELLED)
            self.client.get(id).cancel()

"""What the hub thread does with claimed messages."""

from __future__ import annotations

from typing import Any

import penstock
from penstock.policy.batching import Greedy
from penstock.transport.message import Envelope
from penstock_worker.batcher import Batcher
from penstock_worker.intake import Intake


@penstock.model(name="echo")
def echo(batch: list[object]) -> list[object]:
    return batch


class Announcer:
    """Looks at the batcher when it is called."""

    def __init__(self, batcher: Batcher) -> None:
        self.batcher = batcher
        self.waiting: list[int] = []

    def received(self, items: Any) -> None:
        self.waiting.append(len(self.batcher))

    def send(self, news: Any, acks: Any) -> None: ...


def test_watchers_hear_of_a_job_before_it_can_start():
    batcher = Batcher({"echo": echo}, Greedy(), namespace="t")
    announcer = Announcer(batcher)
    intake = Intake(batcher, announcer, {"echo": echo}, default_timeout_s=1.0)  # type: ignore[arg-type]
    one = Envelope("1", "echo", "1", "interactive", "default", 0, 0, "1", None, None, None, None, False)
    intake.take("t.echo.interactive", [one])
    assert announcer.waiting == [0]
    assert len(batcher) == 1

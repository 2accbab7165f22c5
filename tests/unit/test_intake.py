"""What the hub thread does with claimed messages."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import penstock
from penstock import clock
from penstock.errors import InvalidInput
from penstock.policy.batching import Greedy
from penstock.transport.message import Envelope
from penstock_worker.canvas.foreign import check_canvas
from penstock_worker.item import Run
from penstock_worker.report.load import LoadReport
from penstock_worker.schedule.batcher import Batcher
from penstock_worker.schedule.intake import Intake


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
    one = Envelope("1", "echo", "1", "interactive", "default", 0, "1", None, None, None, None)
    intake.take("t.echo.interactive", [one])
    assert announcer.waiting == [0]
    assert len(batcher) == 1


def test_a_parked_worker_wants_nothing_and_names_every_queue() -> None:
    """A queue that is not named would be claimed from by Celery's own rule."""
    batcher = Batcher({"echo": echo}, Greedy(), namespace="t")
    intake = Intake(batcher, Announcer(batcher), {"echo": echo}, default_timeout_s=1.0)  # type: ignore[arg-type]
    wanted = dict(intake.quota())
    assert any(wanted.values())
    intake.parked = True
    assert intake.quota() == dict.fromkeys(wanted, 0)
    intake.parked = False
    assert intake.quota() == wanted


def test_waits_are_counted_from_when_a_job_could_run_not_from_when_it_was_made() -> None:
    """A job that was sent with a delay, or comes back after a back-off, has not waited for the device meanwhile."""
    batcher = Batcher({"echo": echo}, Greedy(), namespace="t")
    intake = Intake(batcher, Announcer(batcher), {"echo": echo}, default_timeout_s=1.0)  # type: ignore[arg-type]
    made_long_ago = "01800000-0000-7000-8000-000000000000"
    one = Envelope(made_long_ago, "echo", "1", "interactive", "default", 0, "1", None, None, None, None)
    one.at = 1000.0
    intake.take("t.echo.interactive", [one])
    batch = batcher.take(wait=False)
    assert batch is not None
    load = LoadReport(
        [("echo", echo.batching)],
        namespace="t",
        worker="w",
        target_s=0.1,
        waiting=batcher.count,
        room=batcher.room.capacity,
        lead_s=lambda: 0.003,
    )
    for step in range(40):
        load.started(Run(batch, live=batch.items), 1000.01 + step * 1e-6)
    assert load.say("echo", 1000.02).level == 1.0
    for step in range(40):
        load.started(Run(batch, live=batch.items), 1001.0 + step * 0.1)
    assert load.say("echo", 1006.0).level < 1.0, "and it is seen when it has"


@pytest.mark.parametrize(
    ("lane", "deadline_s", "start_by_s", "due_s", "turn_s"),
    [
        ("interactive", None, None, 0.1, 0.1),
        ("interactive", 50.0, None, 0.1, 0.1),
        ("interactive", 50.0, 40.0, 0.1, 0.1),
        ("interactive", 50.0, 0.05, 0.1, 0.05),
        ("interactive", 50.0, -9.0, 0.1, -9.0),
        ("background", None, None, float("inf"), float("inf")),
        ("background", 50.0, 40.0, 50.0, 40.0),
        ("background", 50.0, -9.0, 50.0, -9.0),
    ],
)
def test_a_step_ranks_by_when_it_should_begin_and_is_due_as_any_job(
    lane: str, deadline_s: float | None, start_by_s: float | None, due_s: float, turn_s: float
) -> None:
    batcher = Batcher({"echo": echo}, Greedy(), namespace="t")
    intake = Intake(batcher, Announcer(batcher), {"echo": echo}, default_timeout_s=1.0)  # type: ignore[arg-type]
    now = clock.now()
    deadline_at, start_by = (None if at is None else now + at for at in (deadline_s, start_by_s))
    one = Envelope("1", "echo", "1", lane, "default", 0, "1", None, deadline_at, None, None, now, start_by=start_by)
    intake.take(f"t.echo.{lane}", [one])
    batch = batcher.take(wait=False)
    assert batch is not None
    item = batch.items[0]
    since = item.arrived_at - item.claimed_at
    assert item.due_at - since == pytest.approx(now + due_s, abs=1e-3)
    assert item.rank == (0, pytest.approx(now + turn_s + since, abs=1e-3))
    assert item.ends_at - since == pytest.approx(now + deadline_s if deadline_s is not None else float("inf"), abs=1e-3)


@pytest.mark.parametrize("name", ["callbacks", "errbacks", "chain"])
@pytest.mark.parametrize("value", [7, {"task": "t"}, [7], [{"task": ""}], [{}], "t"])
def test_what_follows_a_message_is_a_list_of_signatures(name: str, value: Any) -> None:
    """Celery takes one that stands alone for a list of its fields, when the model has run."""
    embed = {name: value, "chord": {"task": "t"}}
    request = SimpleNamespace(_payload=[[1], {}, embed], request_dict={})
    with pytest.raises(InvalidInput, match=f"the message's {name}"):
        check_canvas(request)
    assert embed == {name: None, "chord": {"task": "t"}}
    check_canvas(request)

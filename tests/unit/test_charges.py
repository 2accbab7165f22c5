"""What jobs cost in device seconds, and how an acknowledgement says so."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.job import JobState, Outcome
from penstock.lane import Lane
from penstock.model import Model
from penstock.transport.scripts import SETTLE
from penstock_worker.item import Batch, Item, Run
from penstock_worker.report.announcer import Announcer
from penstock_worker.schedule.charges import UNKNOWN_S, Charges

FAST, BULK = "ns.echo.interactive", "ns.echo.background"


class Echo(Model):
    name = "echo"

    def predict(self, batch: list[int]) -> list[int]:
        return batch


def run_of(*costs: float, lane: Lane = Lane.INTERACTIVE, charged: bool = True) -> Run:
    items = []
    for number, cost in enumerate(costs):
        item = Item(
            f"{lane}{number}", "echo", lane, input="1", tag=number, source="hash", arrived_at=0.0, claimed_at=0.0
        )
        item.cost, item.charged = cost, charged
        items.append(item)
    return Run(Batch(Echo, items, "idle"), live=items)


def test_a_job_pays_its_part_of_the_batch() -> None:
    run = run_of(1.0, 3.0)
    Charges(["echo"], "ns").spread(run, 0.8)
    assert [item.device_s for item in run.live] == [pytest.approx(0.2), pytest.approx(0.6)]


def test_what_is_expected_follows_what_was_seen_per_queue() -> None:
    charges = Charges(["echo"], "ns")
    assert charges.expected() == {FAST: UNKNOWN_S, BULK: UNKNOWN_S}
    charges.spread(run_of(1.0, 1.0), 0.2)
    assert charges.expected() == {FAST: pytest.approx(0.1), BULK: UNKNOWN_S}
    for _ in range(200):
        charges.spread(run_of(1.0, lane=Lane.BACKGROUND), 4.0)
    assert charges.expected() == {FAST: pytest.approx(0.1), BULK: pytest.approx(4.0)}


def test_each_queues_device_time_adds_up() -> None:
    charges = Charges(["echo"], "ns")
    charges.spread(run_of(1.0, 3.0), 0.8)
    charges.spread(run_of(1.0), 0.1)
    sequences = run_of(1.0, 1.0, lane=Lane.BACKGROUND).live
    for item in sequences:
        item.device_s = 0.25
    charges.took(sequences)
    assert charges.spent == {FAST: pytest.approx(0.9), BULK: 0.5}


@pytest.mark.parametrize("costs", [(), (0.0, 0.0)])
def test_a_run_that_weighs_nothing_teaches_nothing(costs: tuple[float, ...]) -> None:
    charges = Charges(["echo"], "ns")
    charges.spread(run_of(*costs), 1.0)
    assert charges.expected()[FAST] == UNKNOWN_S


def test_charged_messages_are_settled_the_others_removed() -> None:
    class Nowhere:
        def send(self, news: Any, must: Any = ()) -> None: ...

    announcer = Announcer(Nowhere(), namespace="ns", worker="w", events=None)  # type: ignore[arg-type]
    charged, plain = run_of(1.0, 1.0), run_of(1.0, charged=False)
    Charges(["echo"], "ns").spread(charged, 0.5)
    commands = announcer.acks([*charged.live, *plain.live])
    assert commands[0] == ("HDEL", "hash", 0)
    name, text, count, key, *args = commands[1]
    assert (name, text, count, key) == ("EVAL", SETTLE.text, 1, "hash")
    assert args[3:] == [0, 0.25, 1, 0.25]
    (used,) = [command for command in announcer.settled([], {}, [charged, plain]) if command[0] == "HINCRBYFLOAT"] or [
        None
    ]
    assert used is None  # nothing uncharged has run
    Charges(["echo"], "ns").spread(plain, 0.5)
    assert ("HINCRBYFLOAT", "ns:tenants:used", "default", "0.500000000") in announcer.settled([], {}, [plain])


def test_sequences_teach_what_the_next_ones_are_expected_to_take() -> None:
    """Else each generation would be claimed at the price of a job that nobody knows."""
    charges = Charges(["m"], "ns")
    queue = "ns.m.interactive"
    assert charges.expected()[queue] == UNKNOWN_S
    items = [
        Item(str(n), "m", Lane.INTERACTIVE, input="1", tag=n, source="", arrived_at=0, claimed_at=0) for n in (1, 2)
    ]
    items[0].device_s, items[1].device_s = 5.0, 0.0
    charges.took(items)
    assert charges.expected()[queue] == 5.0, "one that did not run says nothing"
    assert charges.spent == {queue: 5.0}


def test_steps_of_runs_are_told_what_they_cost_and_other_jobs_are_not() -> None:
    run = run_of(1.0, 3.0, 4.0)
    run.live[1].step = run.live[2].step = True
    run.outcomes = [Outcome(id=item.id, attempt=1, state=JobState.SUCCEEDED, step=item.step) for item in run.live]
    charges = Charges(["echo"], "ns")
    charges.spread(run, 0.8)
    charges.book(run)
    assert [outcome.device_s for outcome in run.outcomes] == [None, pytest.approx(0.3), pytest.approx(0.4)]

"""What becomes of the jobs that a worker holds when its model does not return: the pure rule."""

from __future__ import annotations

import pytest

from penstock.errors import AttemptTimeout
from penstock.job import JobState
from penstock.model import Model
from penstock_worker.item import Batch, Item, Run
from penstock_worker.watchdog import verdicts
from tests.unit.test_runner import make_item

NOW = 1_000_000.0


class Stuck(Model):
    name = "double"

    def predict(self, batch: list[int]) -> list[int]:
        return batch


def items(count: int) -> list[Item]:
    return [make_item(str(n), id=f"j{n}", timeout_s=1.0) for n in range(count)]


@pytest.mark.parametrize(
    ("held", "late", "states", "suspicions"),
    [
        pytest.param(1, 1, ["failed"], [0], id="alone on the device, it is to blame"),
        pytest.param(2, 2, ["accepted", "accepted"], [1, 1], id="of several, each is a suspect"),
        pytest.param(3, 1, ["accepted", "accepted", "accepted"], [1, 0, 0], id="who has time left is none"),
    ],
)
def test_who_is_to_blame(held: int, late: int, states: list[str], suspicions: list[int]) -> None:
    members = items(held)
    run = Run(Batch(Stuck, members, "full"), live=members, started_at=NOW - 2.0)
    outcomes = verdicts(run, members[:late], members[late:], now=NOW)
    assert [outcome.id for outcome in outcomes] == [item.id for item in members]
    assert [outcome.state.value for outcome in outcomes] == states
    assert [outcome.suspicions for outcome in outcomes] == suspicions
    assert all(outcome.available_at == NOW for outcome in outcomes if outcome.state is JobState.ACCEPTED)
    assert all(isinstance(item.error, AttemptTimeout) for item in members[:late])
    assert all(item.error is None for item in members[late:])


def test_the_call_that_runs_decides_who_is_alone() -> None:
    """A batch that is halved: the mates of the item on the device are not on it."""
    members = items(3)
    run = Run(Batch(Stuck, members, "full"), live=members, started_at=NOW - 2.0)
    run.call = (0.0, members[:1])
    failed, *mates = verdicts(run, members[:1], members[1:], now=NOW)
    assert failed.state is JobState.FAILED and failed.error is not None
    assert [mate.state for mate in mates] == [JobState.ACCEPTED] * 2


def test_every_late_sequence_of_a_step_wise_model_is_known() -> None:
    late, parked = items(2), make_item("9", id="parked")
    outcomes = verdicts(None, late, [parked], now=NOW)
    assert [outcome.state.value for outcome in outcomes] == ["failed", "failed", "accepted"]

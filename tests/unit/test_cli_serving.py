"""What somebody is told who waits for a model that nobody serves now."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.store.elastic import Leadership, Slot
from penstock_cli.leaders import LEASES, decided_now, no_pool
from penstock_cli.serving import unserved


def slot(pool: str, state: str, ready_at: float | None = None) -> Slot:
    return Slot(
        id="1", pool=pool, state=state, epoch=1, made_at=0, changed_at=0, worker=None, ready_at=ready_at, reason=""
    )  # fmt: skip


WANTED = slot("gpu", "wanted")
STUCK = {"target": 1, "stuck": "CrashLoop: died 5 times in a row: no weights"}


@pytest.mark.parametrize(
    ("pool", "slots", "told", "missing", "words"),
    [
        (None, (), None, True, "no worker serves 'm' now"),
        ("gpu", (WANTED,), None, True, "no worker serves 'm' now"),  # of an autoscaler that is gone
        ("gpu", (WANTED,), {"target": 1, "stuck": ""}, False, "a worker for 'm' is being started (pool gpu)"),
        ("gpu", (), {"target": 0}, False, "the autoscaler starts one of pool gpu for its jobs"),
        ("gpu", (slot("gpu", "draining"),), {"target": 0}, False, "the autoscaler starts one of pool gpu"),
        ("gpu", (slot("cpu", "wanted"),), {"target": 0}, False, "the autoscaler starts one of pool gpu"),
        ("gpu", (WANTED,), STUCK, True, "those of pool gpu do not come up: CrashLoop"),
        # It is there, and of a revision that has not this model.
        ("gpu", (slot("gpu", "wanted", 1.0),), {"target": 1}, True, "those of pool gpu do not either"),
        ("gpu", (slot("gpu", "wanted", 1.0), WANTED), {"target": 2}, False, "is being started (pool gpu)"),
    ],
)
def test_it_is_a_warning_where_no_autoscaler_sees_to_it(
    pool: str | None, slots: tuple[Slot, ...], told: dict[str, Any] | None, missing: bool, words: str
) -> None:
    found, text = unserved("m", pool, slots, told)
    assert found is missing and words in text


def test_a_pool_that_may_have_none_starts_none() -> None:
    missing, text = unserved("m", "gpu", (), {"target": 0}, most=0)
    assert missing and "may have none (max = 0)" in text


@pytest.mark.parametrize(("holder", "age_s", "counts"), [("me", 0.0, True), ("me", 31.0, False), ("", 0.0, False)])
def test_who_was_stopped_or_is_silent_decides_nothing_now(holder: str, age_s: float, counts: bool) -> None:
    state = {"at": 1000.0 - age_s, "pools": {"gpu": {"target": 0}}}
    leaders = {"autoscaler": Leadership(holder, 1, 1, state)}
    assert LEASES * 10.0 == 30.0
    assert decided_now(leaders, lease_s=10.0, now=1000.0) == ({"gpu": {"target": 0}} if counts else {})


@pytest.mark.parametrize(
    ("known", "fix"),
    [
        ([], "there is none yet: `penstock up my_models` makes one"),
        (["cpu", "default"], "did you mean default? (there are cpu, default)"),
        (["cpu", "gpu"], "there are cpu, gpu"),
    ],
)
def test_a_pool_that_there_is_not_is_told_with_those_that_there_are(known: list[str], fix: str) -> None:
    assert no_pool("defalt", known).fix == fix

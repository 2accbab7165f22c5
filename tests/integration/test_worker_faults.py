"""Inputs that kill, hang or do not fit, in real worker processes: they fail alone, and nobody pays for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from penstock.job import JobState
from penstock.settings import Settings
from tests.fixtures.worker import Worker, wait_for
from tests.integration.test_worker import Desk

WorkerFactory = Callable[..., Worker]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Workers that are missed soon."""
    return settings.model_copy(update={"lease": settings.lease.model_copy(update={"ttl_s": 2.0})})


@pytest.fixture
def desk(settings: Settings) -> Iterator[Desk]:
    desk = Desk(settings)
    yield desk
    desk.close()


def batches(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("death", ["segfault", "exit"])
def test_an_input_that_kills_its_worker_is_quarantined(
    desk: Desk, worker_factory: WorkerFactory, dispatcher, tmp_path: Path, death: str
):
    ran = tmp_path / "ran"
    names = ["a", "b", death, "c", "d"]
    ids = desk.submit("deadly", *([str(ran), name] for name in names), lane="background")
    worker_factory(supervised=True)
    jobs = desk.wait(ids)
    killer = jobs.pop(2)
    assert (killer.state, killer.error["code"]) == (JobState.FAILED, "quarantined")
    assert "penstock job retry" in killer.error["message"]
    assert killer.kills == 2
    assert [(j.state, j.output) for j in jobs] == [(JobState.SUCCEEDED, name) for name in "abcd"]
    assert {j.failures for j in jobs} == {0}
    assert {j.kills for j in jobs} == {0}
    # Once with its mates, and then alone; nobody ran beside it again.
    assert [batch for batch in batches(ran) if death in batch][1:] == [[death], [death]]
    (after,) = desk.wait(desk.submit("deadly", [str(ran), "still"]))
    assert after.output == "still"
    wait_for(desk.broker_is_empty, what="the broker to hold nothing")


@pytest.mark.timeout(120)
def test_alone_from_the_start_it_kills_two_workers(
    desk: Desk, worker_factory: WorkerFactory, dispatcher, tmp_path: Path
):
    ran = tmp_path / "ran"
    worker_factory(supervised=True)
    (job,) = desk.wait(desk.submit("deadly", [str(ran), "exit"]))
    assert (job.error["code"], job.attempt, job.losses) == ("quarantined", 2, 2)
    assert batches(ran) == [["exit"], ["exit"]]


@pytest.mark.timeout(120)
def test_of_a_hanging_batch_only_the_one_that_hangs_alone_fails(
    desk: Desk, worker_factory: WorkerFactory, dispatcher, tmp_path: Path
):
    ran = tmp_path / "ran"
    names = ["a", "hang", "b"]
    ids = desk.submit("deadly", *([str(ran), name] for name in names), lane="background", timeout_s=1.0)
    worker_factory(supervised=True)
    first, hanging, last = desk.wait(ids)
    assert (hanging.state, hanging.error["code"], hanging.suspicions) == (JobState.FAILED, "attempt_timeout", 1)
    for mate in (first, last):
        assert (mate.state, mate.failures, mate.losses, mate.kills) == (JobState.SUCCEEDED, 0, 0, 0)
        # "idle" where its message came alone anyway.
        assert mate.batch_size == 1 and mate.batch_reason in ("suspect", "idle")
    assert sorted(batches(ran)[1:]) == [["a"], ["b"], ["hang"]]
    wait_for(desk.broker_is_empty, what="the broker to hold nothing")


def test_out_of_memory_teaches_the_worker_smaller_batches(desk: Desk, worker_factory: WorkerFactory):
    ids = desk.submit("cramped", *range(200), lane="background")
    worker_factory()
    jobs = desk.wait(ids)
    assert {j.state for j in jobs} == {JobState.SUCCEEDED}
    assert {(j.attempt, j.ooms, j.failures) for j in jobs} == {(1, 0, 0)}
    order = sorted(jobs, key=lambda job: job.ledger.started_at)
    assert order[0].batch_size == 32, "nothing was known yet"
    assert {job.batch_size for job in order[32:]} <= {8, order[-1].batch_size}, "formed below the ceiling from then on"


def test_an_item_that_never_fits_pays_alone(desk: Desk, worker_factory: WorkerFactory, dispatcher):
    ids = desk.submit("cramped", 1, -1, 2, lane="background")
    worker_factory()
    first, misfit, last = desk.wait(ids)
    assert (misfit.state, misfit.error["code"], misfit.ooms) == (JobState.FAILED, "out_of_memory", 3)
    for mate in (first, last):
        assert (mate.state, mate.attempt, mate.ooms) == (JobState.SUCCEEDED, 1, 0)

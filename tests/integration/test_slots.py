"""Workers in slots: real processes, which serve while their rows say so, and only then."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from penstock import clock
from penstock.errors import Deposed
from penstock.job import JobState
from penstock.processes.agreed import EXIT_NOT_LOADED
from penstock.settings import Settings
from penstock.store.elastic import Elastic, NewSlot, Slot
from tests.fixtures.cli import Penstock
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.ports import closed_port
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.redis import RedisServer
from tests.fixtures.store import lead
from tests.fixtures.worker import Worker, wait_for
from tests.integration.test_worker import Desk

WorkerFactory = Callable[..., Worker]

LOADS_LONG = """
import time
from pathlib import Path
from penstock import Model

class Long(Model):
    name = "long"
    def load(self, device):
        Path({loading!r}).touch()
        while not Path({loaded!r}).exists():
            time.sleep(0.02)
    def predict(self, batch: list[str]) -> list[str]:
        return batch
"""


@pytest.fixture
def desk(settings: Settings) -> Iterator[Desk]:
    desk = Desk(settings)
    yield desk
    desk.close()


@pytest.fixture
def leader(desk: Desk) -> Leader:
    return Leader(desk.store.elastic)


class Leader:
    """An autoscaler that does as the test says."""

    def __init__(self, elastic: Elastic, name: str = "a") -> None:
        self.elastic = elastic
        self.term = lead(elastic, name)

    def add(self, *, state: str = "wanted", pool: str = "default") -> str:
        new = NewSlot(pool=pool, state=state)
        self.elastic.change(self.term, add=[new], now=clock.now())
        return new.id

    def set(self, id: str, state: str) -> None:
        self.elastic.change(self.term, set={id: state}, reason="told by a test", now=clock.now())

    def row(self, id: str) -> Slot:
        row = self.elastic.slot(id)
        assert row is not None
        return row

    def remove(self, id: str) -> None:
        self.set(id, "draining")
        assert self.elastic.gone([self.row(id)], term=self.term) == [id]

    def ready(self, id: str) -> Slot:
        wait_for(lambda: self.row(id).ready_at, what="the slot's worker to be ready")
        return self.row(id)


@pytest.mark.parametrize("supervised", [False, True])
def test_a_slot_that_was_removed_before_its_worker_begins(
    desk: Desk, leader: Leader, worker_factory: WorkerFactory, supervised: bool
) -> None:
    """It ends with 0, its supervisor too, and has consumed nothing."""
    id = leader.add()
    leader.remove(id)
    jobs = desk.submit("upper", "a", "b")
    worker = worker_factory(args=("--slot", id), supervised=supervised, ready=False)
    assert worker.wait() == 0
    assert "it is there no longer" in worker.output()
    assert worker.output().count("worker.no_slot") == 1, "it was not started again"
    assert [(job.state, job.attempt) for job in desk.jobs(jobs)] == [(JobState.QUEUED, 0)] * 2


def test_whether_there_is_a_slot_is_looked_at_before_the_broker_is_waited_for(
    leader: Leader, settings: Settings, tmp_path: Path
) -> None:
    """One that is wanted no longer needs none."""
    id = leader.add()
    with closed_port() as port:
        env = settings.environ() | {"PENSTOCK_BROKER_URL": f"redis://127.0.0.1:{port}/0"}
        penstock = Penstock(tmp_path, env)
        waits = penstock.start("worker", "--slot", id)
        try:
            waits.says("waiting for the broker")
            leader.remove(id)
            ended = penstock("worker", "--slot", id)
            assert ended.status == 0
            assert "there is no slot for this worker" in ended.err and "it is there no longer" in ended.err
            assert "waiting for" not in ended.err
        finally:
            waits.close()


def test_a_slot_that_is_removed_while_its_worker_loads(
    settings: Settings, desk: Desk, leader: Leader, worker_factory: WorkerFactory, tmp_path: Path
) -> None:
    """Stopping what is starting does not wait for the models."""
    loading = tmp_path / "loading"
    module = tmp_path / "long.py"
    module.write_text(LOADS_LONG.format(loading=str(loading), loaded=str(tmp_path / "never")))
    id = leader.add()
    jobs = desk.submit("long", "a")
    worker = worker_factory(
        settings=settings.model_copy(update={"models": [str(module)]}),
        args=("--slot", id),
        supervised=True,
        ready=False,
    )
    wait_for(loading.exists, what="the model to be loading")
    assert leader.row(id).worker is not None, "taken before anything is loaded"
    assert leader.row(id).ready_at is None
    leader.set(id, "draining")
    assert worker.wait() == 0
    assert leader.row(id).worker is None
    assert desk.jobs(jobs)[0].state is JobState.QUEUED


@pytest.mark.both_databases
def test_it_drains_when_it_is_told_to(desk: Desk, leader: Leader, worker_factory: WorkerFactory, gate: Path) -> None:
    """What runs is finished, what it had claimed beyond goes back, and it is not started again."""
    id = leader.add()
    worker = worker_factory(args=("--slot", id), supervised=True, ready=False)
    row = leader.ready(id)
    registration = next(each for each in desk.store.workers() if each.instance == row.worker)
    assert registration.info["slot"] == id
    [running] = desk.submit("gated", str(gate))
    desk.wait([running], JobState.RUNNING)
    leader.set(id, "draining")
    wait_for(lambda: "worker.drain" in worker.output(), what="the worker to see it")
    later = desk.submit("upper", "later")
    assert desk.jobs([running])[0].state is JobState.RUNNING
    gate.touch()
    assert worker.wait() == 0
    [job] = desk.jobs([running])
    assert (job.state, job.attempt, job.losses) == (JobState.SUCCEEDED, 1, 0)
    assert desk.jobs(later)[0].state is JobState.QUEUED
    assert "worker died" not in worker.output()
    assert (leader.row(id).worker, leader.row(id).ready_at) == (None, None)
    assert desk.store.workers() == []
    assert leader.elastic.gone([leader.row(id)], term=leader.term) == [id]
    assert leader.elastic.slots() == []


def test_a_parked_worker_is_loaded_and_claims_nothing_until_it_is_woken(
    desk: Desk, leader: Leader, worker_factory: WorkerFactory
) -> None:
    parked, awake = leader.add(state="parked"), leader.add()
    first = worker_factory(args=("--slot", parked), ready=False)
    row = leader.ready(parked)
    worker_factory(args=("--slot", awake), ready=False)
    other = leader.ready(awake)
    jobs = desk.wait(desk.submit("ledgered", *([str(first.log.with_name("ran")), n, 0.0] for n in range(40))))
    assert {job.state for job in jobs} == {JobState.SUCCEEDED}
    assert row.worker not in {job.worker for job in jobs}
    leader.set(awake, "draining")
    wait_for(lambda: leader.row(awake).worker is None, what="the other one to have left")
    assert other.worker is not None
    ids = desk.submit("upper", "wake")
    leader.set(parked, "wanted")
    assert desk.wait(ids)[0].output == "WAKE"


def test_two_workers_are_started_for_one_slot(desk: Desk, leader: Leader, worker_factory: WorkerFactory) -> None:
    id = leader.add()
    workers = [worker_factory(args=("--slot", id), ready=False) for _ in range(2)]
    row = leader.ready(id)
    wait_for(lambda: any(each.popen.poll() is not None for each in workers), what="one of them to end")
    [loser] = [each for each in workers if each.popen.poll() is not None]
    [winner] = [each for each in workers if each is not loser]
    assert loser.wait() == 0
    assert f"{row.worker} has it" in loser.output()
    [job] = desk.wait(desk.submit("upper", "one"))
    assert job.output == "ONE"
    assert winner.stop() == 0


def test_a_killed_workers_slot_is_taken_by_another(desk: Desk, leader: Leader, worker_factory: WorkerFactory) -> None:
    """Whoever has started it sees that it is gone; nobody need wait for its lease."""
    id = leader.add()
    first = worker_factory(args=("--slot", id), ready=False)
    before = leader.ready(id)
    first.kill()
    assert leader.row(id).worker == before.worker, "nobody has seen it yet"
    early = worker_factory(args=("--slot", id), ready=False)
    assert early.wait() == 0, "and until then it is taken"
    assert leader.elastic.gone([before], term=leader.term) == [id]
    assert (leader.row(id).worker, leader.row(id).ready_at) == (None, None)
    worker_factory(args=("--slot", id), ready=False)
    assert leader.ready(id).worker != before.worker
    assert desk.wait(desk.submit("upper", "x"))[0].output == "X"


@pytest.mark.usefixtures("dispatcher")
def test_a_dead_workers_slot_is_freed_though_nobody_realises_it(leader: Leader, worker_factory: WorkerFactory) -> None:
    id = leader.add()
    first = worker_factory(args=("--slot", id), ready=False)
    leader.ready(id)
    first.kill()
    wait_for(lambda: leader.row(id).worker is None, what="its lease to run out")


def test_a_supervisor_starts_its_worker_again_in_the_same_slot(
    desk: Desk, leader: Leader, worker_factory: WorkerFactory
) -> None:
    id = leader.add()
    supervisor = worker_factory(args=("--slot", id), supervised=True, ready=False)
    before = leader.ready(id)
    [child] = psutil.Process(supervisor.pid).children()
    child.kill()
    wait_for(lambda: leader.row(id).worker not in (None, before.worker), what="its next life to take over")
    after = leader.ready(id)
    assert after.fence == before.fence
    assert desk.wait(desk.submit("upper", "x"))[0].output == "X"
    assert supervisor.stop() == 0
    assert (leader.row(id).worker, leader.row(id).fence) == (None, None)


def test_a_leader_that_was_stopped_and_goes_on_starts_nothing(
    desk: Desk, leader: Leader, worker_factory: WorkerFactory
) -> None:
    """It had noted its start and was stopped before it: its successor has started another, and what it still starts
    ends before it consumes."""
    id = leader.add()
    assert leader.elastic.place(id, {"by": "a"}, term=leader.term, fence="of-a")
    successor = Leader(leader.elastic, "b")
    assert successor.elastic.place(id, {"by": "b"}, term=successor.term, fence="of-b")
    stale = worker_factory("stale", args=("--slot", id), fence="of-a", ready=False)
    assert stale.wait() == 0
    assert "another start of a process is meant" in stale.output()
    worker_factory("meant", args=("--slot", id), fence="of-b", ready=False)
    successor.ready(id)
    with pytest.raises(Deposed):
        leader.set(id, "draining")
    assert not leader.elastic.place(id, {"by": "a"}, term=leader.term, fence="again")
    assert desk.wait(desk.submit("upper", "x"))[0].output == "X"


def test_a_model_that_does_not_load_leaves_the_slot(
    settings: Settings, leader: Leader, worker_factory: WorkerFactory, tmp_path: Path
) -> None:
    module = tmp_path / "broken.py"
    module.write_text(
        "from penstock import Model\nclass Broken(Model):\n    name = 'broken'\n"
        "    def load(self, device): raise OSError('no such weights')\n"
        "    def predict(self, batch: list[int]) -> list[int]: return batch\n"
    )
    id = leader.add()
    worker = worker_factory(
        settings=settings.model_copy(update={"models": [str(module)]}), args=("--slot", id), ready=False
    )
    assert worker.wait() == EXIT_NOT_LOADED
    assert leader.row(id).worker is None


def test_a_signal_ends_it_as_it_ends_any_other(leader: Leader, worker_factory: WorkerFactory) -> None:
    id = leader.add()
    worker = worker_factory(args=("--slot", id), ready=False)
    leader.ready(id)
    worker.signal(signal.SIGTERM)
    assert worker.wait(timeout_s=PATIENCE_S) == 0
    assert (leader.row(id).state, leader.row(id).worker) == ("wanted", None)


@pytest.mark.parametrize("again", [False, True])
def test_it_drains_though_redis_is_away(
    leader: Leader, worker_factory: WorkerFactory, redis_server: RedisServer, again: bool
) -> None:
    """Whatever the broker does, who is wanted no longer ends; and who is wanted does not."""
    id = leader.add()
    worker = worker_factory(args=("--slot", id), supervised=True, ready=False)
    leader.ready(id)
    redis_server.kill()
    wait_for(lambda: "broker is away" in worker.output(), what="the worker to see it")
    assert leader.row(id).worker is not None
    if again:
        redis_server.start()
    leader.set(id, "draining")
    assert worker.wait() == 0
    assert leader.row(id).worker is None


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_worker_goes_on_while_the_database_is_away_and_drains_when_it_is_back(
    desk: Desk, leader: Leader, worker_factory: WorkerFactory, postgres_server: PostgresServer
) -> None:
    id = leader.add()
    worker = worker_factory(args=("--slot", id), ready=False)
    before = leader.ready(id)
    postgres_server.kill()
    wait_for(lambda: "slot.wait" in worker.output(), what="the worker to see it")
    postgres_server.start()
    assert desk.wait(desk.submit("upper", "still"))[0].output == "STILL"
    assert leader.row(id).worker == before.worker
    leader.set(id, "draining")
    assert worker.wait() == 0


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_worker_that_starts_while_the_database_is_away_waits_for_its_slot(
    leader: Leader, worker_factory: WorkerFactory, postgres_server: PostgresServer
) -> None:
    id = leader.add()
    postgres_server.kill()
    worker = worker_factory(args=("--slot", id), supervised=True, ready=False)
    wait_for(lambda: "waiting for the database" in worker.output(), what="the worker to wait")
    postgres_server.start()
    leader.ready(id)
    leader.set(id, "draining")
    assert worker.wait() == 0

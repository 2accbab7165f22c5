"""Parked workers: loaded, alive, and not consuming; woken in milliseconds."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from celery import Celery

from penstock import clock
from penstock.autoscaler.backends.base import Realised
from penstock.autoscaler.daemon import Autoscaler
from penstock.job import JobState
from penstock.settings import Settings
from penstock.store.elastic import NewSlot, Slot, Term
from penstock.transport import control
from penstock.transport.url import connect, for_kombu, parse
from penstock.views import fleet
from tests.fixtures import celeryapps
from tests.fixtures.store import lead
from tests.fixtures.worker import Worker, wait_for
from tests.integration.test_worker import Desk

WorkerFactory = Callable[..., Worker]


class Yard:
    """Whoever parks workers, and sees what they say of themselves."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.desk = Desk(settings)
        self.client = connect(settings.broker)
        self._term: Term | None = None

    def tell(self, command: str, worker: Worker) -> Any:
        """The worker's answer."""
        name, url = self.look(worker).name, for_kombu(self.settings.broker).url
        app = Celery("stranger", broker=url, backend=url, set_as_current=False)

        def answered() -> Any:
            return app.control.broadcast(command, destination=[name], reply=True, timeout=2.0, limit=1)

        try:
            (answer,) = wait_for(answered, what=f"{name} to answer")
        finally:
            celeryapps.close(app)
        return answer[name]

    def look(self, worker: Worker) -> fleet.Worker:
        found = fleet.registered(self.desk.store, now=clock.now()).live
        return next(each for each in found if each.name.split("@")[0] == worker.name)

    def until_parked(self, worker: Worker, parked: bool = True) -> None:
        wait_for(lambda: self.look(worker).parked is parked, what=f"parked to be {parked}")

    # By slots.

    @property
    def term(self) -> Term:
        self._term = self._term or lead(self.desk.store.elastic)
        return self._term

    def add(self, state: str = "wanted") -> str:
        new = NewSlot(pool="default", state=state)
        self.desk.store.elastic.change(self.term, add=[new], now=clock.now())
        return new.id

    def set(self, id: str, state: str) -> None:
        self.desk.store.elastic.change(self.term, set={id: state}, now=clock.now())

    def ring(self, *workers: Worker) -> None:
        names = [self.look(worker).name for worker in workers]
        self.client.publish(*control.look(names, parse(self.settings.broker).db))

    def ready(self, id: str) -> None:
        def ready() -> bool:
            row = self.desk.store.elastic.slot(id)
            return row is not None and row.ready_at is not None

        wait_for(ready, what="the slot's worker to be ready")

    def close(self) -> None:
        self.desk.close()
        self.client.close()


@pytest.fixture
def yard(settings: Settings) -> Iterator[Yard]:
    yard = Yard(settings)
    yield yard
    yard.close()


def test_it_gives_back_what_it_had_not_begun_and_keeps_all_else(
    yard: Yard, worker_factory: WorkerFactory, gate: Path
) -> None:
    worker = worker_factory("parks")
    desk = yard.desk
    [running] = desk.submit("gated", str(gate))
    desk.wait([running], JobState.RUNNING)
    buffered = desk.submit("gated", *[str(gate)] * 20)
    assert yard.tell("penstock_park", worker) == {"ok": "parks"}
    yard.until_parked(worker)
    # What it had buffered is another's at once, which the one that runs is not.
    gate.touch()
    desk.wait([running], JobState.SUCCEEDED)
    waiting = [job for job in desk.jobs(buffered) if job.state is JobState.QUEUED]
    assert len(waiting) >= 20 - 8, "at most a batch that had begun"
    # It lives, longer than its lease, and says that it is loaded.
    until = time.monotonic() + 1.5 * yard.settings.lease.ttl_s
    wait_for(lambda: time.monotonic() > until)
    seen = yard.look(worker)
    assert seen.parked and seen.lease_s > 0 and "gated" in seen.models
    assert [job.state for job in desk.jobs([job.id for job in waiting])] == [JobState.QUEUED] * len(waiting)
    other = worker_factory("works")
    desk.wait(buffered, JobState.SUCCEEDED)
    assert {job.worker for job in desk.jobs([job.id for job in waiting])} == {yard.look(other).instance}
    assert all(job.attempt == 1 and job.losses == 0 for job in desk.jobs(buffered))
    other.stop()
    later = desk.submit("upper", "later")
    assert yard.tell("penstock_wake", worker) == {"ok": "wakes"}
    desk.wait(later, JobState.SUCCEEDED)
    yard.until_parked(worker, False)


def test_its_slot_is_the_truth_and_a_message_only_makes_it_quick(yard: Yard, worker_factory: WorkerFactory) -> None:
    desk = yard.desk
    id = yard.add("parked")
    worker = worker_factory("slotted", args=("--slot", id))
    yard.ready(id)
    assert yard.look(worker).parked and yard.look(worker).slot == id
    jobs = desk.submit("upper", "a")
    # Whatever somebody says who is not the leader (any more): it does what the row says.
    assert "says whether it consumes" in yard.tell("penstock_wake", worker)["ok"]
    yard.ring(worker)
    assert yard.tell("penstock_look", worker) == {"ok": "the slot is looked at"}
    assert desk.jobs(jobs)[0].state is JobState.QUEUED and yard.look(worker).parked
    began = time.monotonic()
    yard.set(id, "wanted")
    yard.ring(worker)
    desk.wait(jobs, JobState.SUCCEEDED)
    woken_s = time.monotonic() - began
    yard.until_parked(worker, False)
    # Without a message it is its own next look, within 2 s.
    yard.set(id, "parked")
    yard.until_parked(worker)
    print(f"woken to result: {woken_s * 1000:.1f} ms")


def test_whoever_decides_tells_the_workers_whose_slots_have_changed(yard: Yard) -> None:
    """Beside the rows: a parked worker is woken at once, and one that drains does not claim for two seconds more."""
    scaler = Autoscaler(yard.settings, yard.desk.store, Idle(), room=lambda pools: dict.fromkeys(pools, 2), tells=False)
    elastic, ids = yard.desk.store.elastic, [yard.add(), yard.add("parked"), yard.add()]
    for number, id in enumerate(ids[:2]):
        assert elastic.take(id, f"w{number}@here:1:abc") is not None
    with yard.client.pubsub() as heard:
        heard.subscribe(f"/{parse(yard.settings.broker).db}.celery.pidbox")
        wait_for(lambda: heard.get_message(timeout=1.0))
        scaler._orders.look(elastic.slots())
        message = wait_for(lambda: heard.get_message(timeout=1.0))
    body = json.loads(json.loads(message["data"])["body"])
    assert (body["method"], body["destination"]) == ("penstock_look", ["w0@here", "w1@here"])
    scaler.stop()


class Idle:
    """A backend that does nothing."""

    name = "idle"

    def realise(self, slots: Sequence[Slot], *, term: Term) -> Realised:
        return Realised()

    def close(self) -> None:
        pass


def test_without_a_slot_a_look_is_refused_in_words(yard: Yard, worker_factory: WorkerFactory) -> None:
    assert "has no slot" in yard.tell("penstock_look", worker_factory())["error"]


def test_it_stays_parked_on_another_connection(yard: Yard, worker_factory: WorkerFactory) -> None:
    def connections() -> dict[int, bool]:
        """Those at the broker, by number, and whether they listen to messages for all."""
        return {int(each["id"]): int(each["sub"]) + int(each["psub"]) > 0 for each in yard.client.client_list()}

    before = set(connections())
    id = yard.add("parked")
    worker = worker_factory("parks", args=("--slot", id))
    yard.ready(id)
    wait_for(lambda: any(hears for number, hears in connections().items() if number not in before))
    for number in set(connections()) - before:
        yard.client.client_kill_filter(_id=str(number))
    wait_for(lambda: "broker is away" in worker.output(), what="the worker to see that it was cut off")
    jobs = yard.desk.submit("upper", "a")
    wait_for(lambda: any(hears for number, hears in connections().items() if number not in before))
    assert yard.tell("penstock_look", worker) == {"ok": "the slot is looked at"}
    assert yard.desk.jobs(jobs)[0].state is JobState.QUEUED and yard.look(worker).parked
    yard.set(id, "wanted")
    yard.ring(worker)
    yard.desk.wait(jobs, JobState.SUCCEEDED)


def test_thirty_times_parked_and_woken_nothing_is_lost_nor_done_twice_nor_left_behind(
    yard: Yard, worker_factory: WorkerFactory
) -> None:
    desk, ids, workers = yard.desk, [yard.add(), yard.add()], []
    for number, id in enumerate(ids):
        workers.append(worker_factory(f"w{number}", args=("--slot", id)))
    jobs: list[str] = []

    def cycle(number: int) -> None:
        first, second = (0, 1) if number % 2 else (1, 0)
        # In two messages and in this order: one of the two consumes always, both for a moment.
        yard.set(ids[first], "wanted")
        yard.ring(workers[first])
        yard.until_parked(workers[first], False)
        jobs.extend(desk.submit("nap", *[0.01] * 12))
        yard.set(ids[second], "parked")
        yard.ring(workers[second])
        yard.until_parked(workers[second])

    for number in range(6):  # each of them has done all that it will do
        cycle(number)
    desk.wait(jobs, JobState.SUCCEEDED)
    before = [held(worker.pid) for worker in workers]
    for number in range(30):
        cycle(number)
    desk.wait(jobs, JobState.SUCCEEDED)
    assert all(job.attempt == 1 and job.losses == 0 and job.failures == 0 for job in desk.jobs(jobs))
    for worker, had in zip(workers, before, strict=True):
        # Pools of connections grow by one when two threads want one at the same time; 15 times each was parked.
        had["socket"] += 2
        with suppress(pytest.fail.Exception):
            wait_for(lambda pid=worker.pid, had=had: held(pid) <= had)
        assert held(worker.pid) <= had, (held(worker.pid), had)


def held(pid: int) -> Counter[str]:
    """Threads, and descriptors by kind; those of the database's pool, which grows up to its size, apart."""
    kinds: Counter[str] = Counter(threads=psutil.Process(pid).num_threads())
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            kinds[str(path.readlink()).partition(":")[0]] += 1
    return Counter({kind: count for kind, count in kinds.items() if "penstock.db" not in kind})

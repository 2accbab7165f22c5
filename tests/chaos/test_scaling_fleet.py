"""A fleet that scales while all that it rests on is killed: autoscaler, zygote, workers, Redis, the database."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from penstock import JobState, StoreUnavailable
from penstock.settings import Settings
from tests.chaos.audit import Audit, messages_held
from tests.chaos.load import Load
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.redis import RedisServer
from tests.fixtures.scaling import Site, scaled
from tests.fixtures.worker import Process, wait_for

#: Jobs that come between two strikes, and that more than one worker is wanted for.
FEW, MANY = 40, 400


@pytest.fixture
def site(settings: Settings, tmp_path: Path) -> Iterator[Site]:
    """One worker always, a parked one beside it, three at most, as far as the work asks for them."""
    made = Site(scaled(settings, min=1, max=3, warm=1), tmp_path)
    yield made
    made.close()


class Monkey:
    """Strikes what a fleet rests on; what no autoscaler starts is started again at once."""

    def __init__(self, site: Site, rng: random.Random, redis: RedisServer, postgres: PostgresServer | None) -> None:
        self.site, self.rng = site, rng
        self._redis, self._postgres = redis, postgres
        self.scaler = site.start()

    @property
    def deeds(self) -> list[Callable[[], None]]:
        return [self.kill_autoscaler, self.kill_zygote, self.kill_worker, self.kill_redis, self.kill_database]

    def kill_autoscaler(self) -> None:
        self.scaler.kill()
        self.scaler = self.site.start()

    def kill_zygote(self) -> None:
        zygote: psutil.Process = wait_for(self._zygote, what="a zygote")
        zygote.kill()

    def kill_worker(self) -> None:
        """One process of those that a worker is made of: its supervisor, or who does the work."""
        process: psutil.Process = wait_for(self._of_a_worker, what="a worker that is ready")
        with suppress(psutil.NoSuchProcess):
            process.kill()

    def kill_redis(self) -> None:
        self._redis.kill()
        self._redis.start()

    def kill_database(self) -> None:
        """A file cannot be killed: somebody else writes to it, for as long as it takes to lose Redis, too."""
        if self._postgres is not None:
            self._postgres.kill()
            self._postgres.start()
        else:
            with locked(self.site.settings.database):
                self.kill_redis()

    def leads(self) -> bool:
        """Whether the autoscaler that runs leads."""
        found = self.site.store.elastic.leadership()
        return found is not None and f":{self.scaler.pid}:" in found.holder

    def _zygote(self) -> psutil.Process | None:
        children = psutil.Process(self.scaler.pid).children()
        return next((child for child in children if "penstock_worker.zygote" in words_of(child)), None)

    def _of_a_worker(self) -> psutil.Process | None:
        with suppress(StoreUnavailable, psutil.Error):
            ready = self.site.ready()
            supervisor = psutil.Process((self.rng.choice(ready).place or {})["pid"]) if ready else None
            return self.rng.choice([supervisor, *supervisor.children()]) if supervisor is not None else None
        return None


def words_of(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []


@contextmanager
def locked(database_url: str) -> Iterator[None]:
    """Nobody else writes to the file meanwhile."""
    with closing(sqlite3.connect(database_url.removeprefix("sqlite:///"), timeout=60, isolation_level=None)) as file:
        file.execute("BEGIN IMMEDIATE")
        yield
        file.execute("ROLLBACK")


def as_wanted(site: Site) -> bool:
    """Each slot has a worker that is ready, its process lives, and no process is there beyond them."""
    slots = site.slots
    told = site.told("default")
    wanted = sum(slot.state == "wanted" for slot in slots)
    parked = sum(slot.state == "parked" for slot in slots)
    if any(slot.ready_at is None or slot.worker is None for slot in slots) or wanted + parked != len(slots):
        return False
    if (told.get("target"), told.get("parked")) != (wanted, parked):
        return False
    supervisors = {(slot.place or {}).get("pid") for slot in slots}
    return supervisors == {process.pid for process in site.workers()}


def descriptors(*processes: Process) -> int:
    return sum(psutil.Process(process.pid).num_fds() for process in processes)


class Chaos:
    """Strikes between which jobs go on coming, and what must be so after them."""

    def __init__(self, monkey: Monkey, load: Load, audit: Audit) -> None:
        self._monkey, self._load, self._audit = monkey, load, audit
        self.jobs = FEW
        self.done: list[str] = []

    def strike(self, deeds: list[Callable[[], None]]) -> None:
        """Do these, in an order by chance."""
        for deed in self._monkey.rng.sample(deeds, len(deeds)):
            self._load.submit(self.jobs)
            before = self._audit.settled()
            wait_for(
                lambda before=before: self._audit.settled() > before + self.jobs // 4,
                what=f"progress after {self.done}",
            )
            deed()
            self.done.append(deed.__name__)

    def settle(self) -> None:
        """Everything has ended, once, and the fleet is as wanted."""
        wait_for(
            lambda: self._audit.settled() >= len(self._load.accepted) and not self._audit.open(),
            what=f"{len(self._load.accepted)} jobs to end after {self.done}",
        )
        self._audit.verify(self._load.accepted, expected=self._load.expected)
        # What a dead leader has said of the fleet is as the fleet is, too.
        wait_for(self._monkey.leads, what="the last autoscaler to lead")
        wait_for(lambda: as_wanted(self._monkey.site), what=f"the fleet as it is wanted after {self.done}")

    def results(self) -> None:
        """Each job that has succeeded has the result of its own item."""
        rows = self._monkey.site.store.get_many(list(self._load.accepted))
        wrong = [
            id
            for id, key in self._load.accepted.items()
            if rows[id].state is JobState.SUCCEEDED and rows[id].output != key
        ]
        assert not wrong, f"{len(wrong)} jobs have another result than their own: {wrong[:5]}"


@pytest.fixture
def monkey(site: Site, load: Load, redis_server: RedisServer, request: pytest.FixtureRequest) -> Monkey:
    on_postgres = site.settings.database.startswith("postgresql")
    postgres: Any = request.getfixturevalue("postgres_server") if on_postgres else None
    load.pause_s = 0.02
    return Monkey(site, load.rng, redis_server, postgres)


@pytest.fixture
def chaos(monkey: Monkey, load: Load, audit: Audit) -> Chaos:
    return Chaos(monkey, load, audit)


def all_ends(site: Site, monkey: Monkey, dispatcher: Process, redis: RedisServer) -> None:
    """Told to stop, the deployment leaves nothing behind."""
    wait_for(lambda: messages_held(redis, site.settings.namespace) == (0, 0), what="the broker to be empty")
    assert monkey.scaler.stop() == 0
    assert site.slots == []
    assert dispatcher.stop() == 0
    wait_for(lambda: not site.everything(), what=f"no process to be left: {site.everything()}")


def test_a_fleet_survives_the_death_of_each_of_its_parts(
    chaos: Chaos, monkey: Monkey, site: Site, start_dispatcher: Callable[[], Process], redis_server: RedisServer
) -> None:
    """Each once, in an order by chance."""
    dispatcher = start_dispatcher()
    chaos.strike(monkey.deeds)
    chaos.settle()
    chaos.results()
    all_ends(site, monkey, dispatcher, redis_server)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(20, 24))
def test_a_fleet_survives_all_of_it_again_and_again(
    seed: int,
    chaos: Chaos,
    monkey: Monkey,
    site: Site,
    load: Load,
    start_dispatcher: Callable[[], Process],
    redis_server: RedisServer,
) -> None:
    """And what lives through it holds no more descriptors than before."""
    load.rng = monkey.rng = random.Random(seed)
    load.pause_s, chaos.jobs = 0.1, MANY
    dispatcher = start_dispatcher()
    for _ in range(4):
        chaos.strike([*monkey.deeds, monkey.kill_worker, monkey.kill_worker])
    chaos.settle()
    assert max(change.after for change in site.store.elastic.changes("default")) > 1, "it has scaled"
    rest = [deed for deed in monkey.deeds if deed != monkey.kill_autoscaler]
    chaos.strike(rest)
    chaos.settle()
    before = descriptors(monkey.scaler, dispatcher)
    for _ in range(4):
        chaos.strike(rest)
    chaos.settle()
    wait_for(lambda: descriptors(monkey.scaler, dispatcher) <= before, what=f"no more descriptors than {before}")
    chaos.results()
    all_ends(site, monkey, dispatcher, redis_server)
